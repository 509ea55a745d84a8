"""Centralised references and equilibrium certificates, computed on a desk with everybody's secrets.

A module per game, imported with the first certificate, and cvxpy and SciPy with it. A certificate is ready for JSON
and has at least `method` (what was done, in words), `gap` (relative, to the centralised reference), `max_regret` (the
largest relative gain that any one player has from deviating alone), `violation` (the worst breach of a limit) and
`feasible`.
"""

from importlib.util import find_spec

SOLVERS = ("scipy", "cvxpy", "clarabel")
CERTIFIED_UP_TO = 200
"""Homes up to which every run is certified; above, `stackelgrid certify DIR` does it."""
CERTIFIED_SESSIONS = 3
"""Sessions of a run up to which it is certified; with more, `stackelgrid certify DIR` does it."""


class CertificateError(RuntimeError):
    """No certificate could be issued; the message says which reference failed or what the outcome lacks."""


class SolverMissingError(CertificateError):
    """A solver that certificates need is not installed; the message says how to install it."""


def require_solvers() -> None:
    """Raise `SolverMissingError` unless the packages that certificates need are installed."""
    missing = [name for name in SOLVERS if find_spec(name) is None]
    if missing:
        raise SolverMissingError(f"{', '.join(missing)} not installed; pip install 'stackelgrid[desk]'")
