"""The demand response aggregator: it answers the leader for its homes and passes on their sums only."""
