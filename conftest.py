"""What all tests share."""

from hypothesis import settings

# Machines that run the tests are busy, so no example is timed; and the same tests run everywhere.
settings.register_profile("crosstrain", deadline=None, derandomize=True)
settings.load_profile("crosstrain")
