"""What was served and judged: decisions, draws and verdicts, in SQL."""
