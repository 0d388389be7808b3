"""What all tests share."""

import os
import shutil
import tempfile

import pytest
from hypothesis import settings

# Machines that run the tests are busy, so no example is timed; and the same tests run everywhere.
settings.register_profile("crosstrain", deadline=None, derandomize=True)
settings.load_profile("crosstrain")


def pytest_configure(config: pytest.Config) -> None:
    """A run of the tests, with all processes it starts, has JAX compile a program once, and keeps none for the next."""
    if hasattr(config, "workerinput") or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="crosstrain-programs-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
