"""The threshold search against other engines."""
