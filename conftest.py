"""Settings that every test run shares, of the packages and of the systems."""

import os

from hypothesis import settings

os.environ.setdefault("MPLBACKEND", "Agg")

# A property either holds or not: the machine's speed does not decide (no deadline), and two runs of
# the same code try the same examples.
settings.register_profile("house", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("house")
