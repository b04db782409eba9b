"""Backbones and heads, by name."""
