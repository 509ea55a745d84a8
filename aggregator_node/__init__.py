"""The demand response aggregator: it speaks for its homes and keeps their numbers to itself."""
