"""The store of runs: the folders below runs/, and an index of them."""
