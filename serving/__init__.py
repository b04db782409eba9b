"""Answers under the threshold: Ray Serve, HTTP, Prometheus. Meets jobs only in a release."""
