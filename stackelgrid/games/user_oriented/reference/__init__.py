"""The references of the certificate: a central programme of all homes, their answers, and a search for a better price.

They check the nodes, and share no code with them but the exact answer of homes with storage in the climbs of that
search. They read everybody's private parameters, so they run on a desk only.
"""
