"""How fast and how light: each module measures one thing; `python -m benchmarks` runs them all."""
