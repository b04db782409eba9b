"""Ray jobs and the command line. Meets serving only in a release."""
