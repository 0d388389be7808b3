"""Starting JAX's processes: one coordinator, met by all, and everything that `jax.distributed` finds by itself."""

import os

import jax

from crosstrain.errors import ConfigError
from crosstrain.launch import supervise
from crosstrain.launch.cluster import slurm
from crosstrain.launch.engine import Ended, Job, Launcher, Place
from crosstrain.launch.ports import free_port
from crosstrain.launch.spec import LaunchSpec
from crosstrain_jax.threads import enough_threads


def launcher() -> Launcher:
    """The JAX engine's."""
    return JaxLauncher()


class JaxLauncher(Launcher):
    """See `crosstrain.launch.Launcher`. One process drives all devices of a host unless several are asked for."""

    name = "jax"
    clusters = ("slurm", "tpu", "gke")
    tasks_are_processes = True

    def check(self, spec: LaunchSpec) -> None:
        """See `crosstrain.launch.Launcher`."""
        step = slurm()
        if step and step.tasks > 1 and (spec.hosts or (spec.processes or 1) > 1):
            raise ConfigError(
                f"processes and hosts must be left to Slurm, which has started {step.tasks} tasks, got "
                f"processes={spec.processes}, hosts={','.join(spec.hosts) or None}. JAX takes every task as one "
                "process: use srun --ntasks-per-node."
            )
        if (spec.processes or 1) > 1 and "TPU_WORKER_HOSTNAMES" in os.environ:
            raise ConfigError(
                f"processes must be 1 on a TPU host, whose devices belong to one process, got "
                f"processes={spec.processes}. Leave it out."
            )

    def run(self, job: Job) -> list[Ended]:
        """See `crosstrain.launch.Launcher`."""
        for attempt in range(job.spec.max_restarts + 1):
            failed = supervise.run(_commands(job), grace_s=job.spec.grace_s)
            if not failed or attempt == job.spec.max_restarts:
                return failed
            names = ", ".join(f"{each.index} (exit code {each.exit_code})" for each in failed)
            supervise.say(f"process {names} failed; restart {attempt + 1} of {job.spec.max_restarts}")
        raise AssertionError("unreachable: the last attempt returns")

    def join(self, place: Place | None) -> Place | None:
        """See `crosstrain.launch.Launcher`."""
        if place is None:
            try:
                jax.distributed.initialize()
            except ValueError as error:
                # So it says that there is no cluster: a process on its own.
                if "coordinator_address" not in str(error):
                    raise
            return None
        if place.devices is not None:
            jax.config.update("jax_num_cpu_devices", place.devices)
            enough_threads()
        if place.count > 1:
            jax.distributed.initialize(
                place.address,
                place.count,
                place.index,
                # Matters to GPUs alone: without it each process would take all of them.
                local_device_ids=[
                    place.local_index * (place.devices or 1) + each for each in range(place.devices or 1)
                ],
            )
        return place

    def held(self) -> str | None:
        """See `crosstrain.launch.Launcher`."""
        from jax._src import xla_bridge  # the public calls would start the devices in order to ask

        if not xla_bridge.backends_are_initialized() or jax.default_backend() == "cpu":
            return None
        return f"JAX has taken the {jax.default_backend()} devices for this session"


def _commands(job: Job) -> dict[int, list[str]]:
    spec = job.spec
    alone = not spec.hosts and spec.processes is None
    if alone and spec.devices_per_process is None:
        return {0: job.command(None)}
    here = spec.processes or 1
    address = f"{spec.hosts[0]}:{spec.meeting_port}" if spec.hosts else f"127.0.0.1:{spec.port or free_port()}"
    places = (
        Place(
            index=job.node_rank * here + local,
            count=spec.node_count * here,
            local_index=local,
            address=address,
            devices=spec.devices_per_process,
        )
        for local in range(here)
    )
    return {place.index: job.command(place) for place in places}
