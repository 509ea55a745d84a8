"""The memory of a grid: what each node may know of the sessions it took part in, in a SQLite file of its own."""
