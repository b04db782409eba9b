"""Pairs into operating counts: by distance, customer and class."""
