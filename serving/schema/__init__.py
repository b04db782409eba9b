"""The HTTP bodies as models: what a request may say and what an answer says."""
