"""Releases in a replica: opened, followed, swapped, shadowed."""
