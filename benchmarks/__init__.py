"""Measurements that take long; their results are committed under docs/study."""
