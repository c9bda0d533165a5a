"""Hypothesis draws the same examples in every run and has no deadline on slow machines."""

from hypothesis import settings

settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")
