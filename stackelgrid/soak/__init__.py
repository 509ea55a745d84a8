"""Deterministic simulation testing: thousands of small runs under random fault plans, each drawn from one integer.

A run takes milliseconds under the virtual clock, and its seed is enough to repeat it. `cases` draws what is played,
`play` plays it and notes every message that was sent, `promises` checks the run against the promises of the round
protocol (docs/architecture.md), `replay` prints it as a readable trace, `tally` plays and counts many.
"""
