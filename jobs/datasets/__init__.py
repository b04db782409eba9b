"""The demo's items table and the script that builds it."""
