"""Losses: our own as functions, the metric-learning library's through one adapter."""
