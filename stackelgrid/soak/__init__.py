"""Deterministic simulation testing: thousands of small runs under random fault plans, each drawn from one integer.

A run takes milliseconds under the virtual clock, and its seed is all it takes to see it again. `cases` draws what is
played, `stage` plays it and writes down what every node really said, `promises` holds the run against what rounds
promise (docs/architecture.md), `replay` prints it as a readable trace.
"""
