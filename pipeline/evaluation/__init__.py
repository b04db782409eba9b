"""Embeddings and releases measured, and compared in what they decide."""
