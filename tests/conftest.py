"""Settings of the whole suite."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see jobs/__init__.py

# Machines are shared: a slow example is not a failing one.
settings.register_profile("limen", deadline=None)
settings.load_profile("limen")
