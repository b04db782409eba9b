"""The verbs that talk to a server: serve, query, keys, verdicts, drift."""
