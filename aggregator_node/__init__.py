"""The aggregator's process: it answers its leader by playing rounds with its homes."""
