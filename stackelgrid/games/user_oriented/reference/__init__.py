"""The references of the certificate: a central programme of all homes, and a search for a better price.

They use other solvers and formulas than the nodes, which they check. They read everybody's private parameters, so they
run on a desk only.
"""
