"""Deterministic simulation testing: thousands of small runs under random fault plans, each drawn from one integer.

A run takes milliseconds under the virtual clock, and its seed is enough to repeat it. `cases` draws what is played,
`play` plays it and notes what every node sent, received and did; `timeline` reads the rounds from that. `promises`
checks the run against the promises of the round protocol (docs/architecture.md), with those of `conduct` for each node;
`marks` names the transitions that it reached. `replay` prints it as a readable trace, `shrink` makes a failing case
smaller, `tally` plays and counts many.
"""
