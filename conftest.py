"""What all tests share."""

import os

from hypothesis import settings

# What JAX compiles in tests is not kept for the next run of them; where they compile anew, they say so.
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")

# Machines that run the tests are busy, so no example is timed; and the same tests run everywhere.
settings.register_profile("crosstrain", deadline=None, derandomize=True)
settings.load_profile("crosstrain")
