"""The references of the certificate: a central programme of all homes, and a search for a better price.

They check the nodes, and share no code with them but the answer of homes with storage in the price search. They read
everybody's private parameters, so they run on a desk only.
"""
