"""How many requests a second, end to end over HTTP: ``python -m benchmarks.http``."""
