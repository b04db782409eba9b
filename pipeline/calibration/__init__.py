"""One threshold: the rules that choose it, and its rates with intervals."""
