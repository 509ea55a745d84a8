"""Studies: many runs of one scenario in memory, over a grid, and the papers' figures beside ours."""
