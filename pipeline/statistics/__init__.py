"""Intervals that cover: for rates, for mean squares, at every look, for the next unit."""
