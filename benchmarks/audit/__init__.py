"""How many labels audits need: simulated deciders, and real ones with known labels."""
