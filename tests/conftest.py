"""Settings of the whole suite."""

from hypothesis import settings

# Machines are shared: a slow example is not a failing one.
settings.register_profile("limen", deadline=None)
settings.load_profile("limen")
