"""Benchmarks of speed and memory: each module measures one thing; `python -m benchmarks` runs them all."""
