"""Threads for several CPU devices in one process."""

import logging
import os
import re

import jax
from jax._src import xla_bridge

from crosstrain.cores import usable_cores

_PER_DEVICE = 4
_VARIABLE = "PJRT_NPROC"
logger = logging.getLogger("crosstrain")


def enough_threads() -> None:
    """Gives XLA the threads that several CPU devices in this process need, where it has not started yet.

    A collective keeps its thread until every device has come to it. XLA has one thread per core: with two devices on
    two cores both may be kept by collectives that wait for a device which finds no thread, until XLA ends the process
    after 40 seconds ("Termination timeout"). XLA reads their number from the environment when it starts; a number that
    stands there stays.
    """
    devices = max(jax.config.jax_num_cpu_devices, _forced())
    if devices < 2 or _VARIABLE in os.environ:
        return
    wanted, cores = _PER_DEVICE * devices, usable_cores()
    if not xla_bridge.backends_are_initialized():  # no public call says so without starting them
        os.environ[_VARIABLE] = str(max(wanted, cores))
    elif cores < wanted and jax.default_backend() == "cpu":
        logger.warning(
            "XLA has one thread for each of %d cores, too few for %d CPU devices: steps may hang. Make the Accelerator "
            "before anything else uses JAX, or start Python with %s=%d.",
            *(cores, devices, _VARIABLE, wanted),
        )


def _forced() -> int:
    """CPU devices that XLA's own flag asks for."""
    found = re.findall(r"--xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    return int(found[-1]) if found else 1
