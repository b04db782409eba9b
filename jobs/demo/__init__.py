"""The demonstration: a user's own steps, end to end, on real images."""
