"""The evidence: sixteen comparisons of a base loss with and without TCM, and what came of them."""
