"""Threshold search: the gallery, its index on disk, and what a look at it proves."""
