"""Private sums: an aggregator learns what its homes draw together, and of no home what it draws alone.

A home adds pseudorandom numbers, its mask, to what it answers. A committee of five of the homes can compute
the masks; it gives the sum of them for one agreed list of answers a round, and the aggregator takes that off the sum of
the masked answers. The parts of home, committee member and aggregator are state machines without I/O, like those of
`stackelgrid.rounds`.
"""
