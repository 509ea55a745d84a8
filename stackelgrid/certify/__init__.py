"""Centralised references and equilibrium certificates, computed on a desk with everybody's secrets.

A module per game, imported with the first certificate, and cvxpy and SciPy with it. A certificate is ready for JSON
and has at least `method` (what was done, in words), `gap` (relative, to the centralised reference), `max_regret` (the
largest relative gain that any one player has from deviating alone), `violation` (the worst breach of a limit) and
`feasible`.
"""


class CertificateError(RuntimeError):
    """No certificate could be issued; the message says which reference failed or what the outcome lacks."""
