"""What was measured, for people: pages that need nothing else, and their figures."""
