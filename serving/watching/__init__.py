"""What is recorded and counted, and what Prometheus shows of it."""
