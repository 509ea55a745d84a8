"""What the certificate compares with: a central programme of all homes, and a search for a better price.

Solved by other means than the nodes use. It sees everybody's private parameters, so it runs on a desk only.
"""
