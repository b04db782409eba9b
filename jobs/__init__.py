"""Ray jobs and the command line. Meets serving only in a release."""

import os

# Waiting threads that spin take the cores from those that work: on a busy machine a training
# step then lasts five times as long. Read once, when torch is imported; the user's own wins.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
