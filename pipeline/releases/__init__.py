"""Sealed releases: manifest, signature, the stores that keep them, and aliases."""
