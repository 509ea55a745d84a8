"""The games, a folder each, with the same file names in each; `stackelgrid.registry` finds them."""
