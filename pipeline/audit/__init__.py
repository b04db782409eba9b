"""Many decision sets estimated with few labels: docs/methods.md section 3."""
