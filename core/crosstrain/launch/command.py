"""`crosstrain launch`: the command line."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from crosstrain import backends
from crosstrain.errors import ConfigError
from crosstrain.launch import printed
from crosstrain.launch.engine import Cluster
from crosstrain.launch.run import run
from crosstrain.launch.spec import LaunchSpec, parse_hosts

CHECK = "crosstrain.launch.check"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How and where the script is started."""

    backend: str | None = None
    """Engine: jax or torch. None takes the one that is installed."""
    processes: int | None = None
    """Processes on each host. By default torch has one per GPU, and JAX one, or what the cluster says."""
    devices_per_process: int | None = None
    """JAX: virtual CPU devices of each process; on GPUs, how many each process takes (default 1)."""
    hosts: str | None = None
    """Machines, separated by commas, the same on each of them. The first one is where they meet."""
    node_rank: int | None = None
    """Which of the hosts this is, 0-based. Found by name where it can be."""
    port: int | None = None
    """Port on the first host. Default 29500, or a free one for one host."""
    max_restarts: int = 0
    """How often the job starts again when a process fails; it goes on from its checkpoint."""
    grace_s: float = 30.0
    """Seconds between SIGTERM and SIGKILL, in which the processes save."""
    module: tyro.conf.FlagCreatePairsOff[bool] = False
    """The script is the name of a module, as in `python -m`."""
    test: tyro.conf.FlagCreatePairsOff[bool] = False
    """Check every collective and one training step on this machine, instead of running a script."""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the command of each host, and start nothing."""
    cluster: Cluster | None = None
    """With --dry-run: print what this kind of cluster is given."""
    nodes: int | None = None
    """With --dry-run --cluster: number of hosts."""


def launch(
    command: tyro.conf.Positional[tuple[str, ...]] = (), *, options: Annotated[Options, tyro.conf.arg(name="")]
) -> int:
    """Runs a script in several processes: `crosstrain launch --backend jax --processes 2 train.py --lr 0.1`.

    Args:
        command: the script and its arguments.
        options: come before the script.
    """
    if options.test:
        if command or options.module:
            raise ConfigError(
                f"--test must be given without a script, got {' '.join(command)!r}. Leave one of them out."
            )
        backend = backends.name_of(options.backend)
        spec = _spec(options, (CHECK, backend), module=True)
    else:
        if not command:
            raise ConfigError(
                "a script must be given, got none. Use: crosstrain launch [options] train.py [arguments]."
            )
        backend = backends.name_of(options.backend)
        spec = _spec(options, command, module=options.module)
    if options.dry_run:
        launcher = backends.launcher(backend)
        print(printed.commands(spec, launcher, options.cluster, options.nodes, test=options.test))
        return 0
    if options.cluster or options.nodes:
        raise ConfigError(
            f"cluster and nodes must come with --dry-run, got cluster={options.cluster}, nodes={options.nodes}. "
            "On a cluster the launcher finds out by itself where it is."
        )
    return run(spec, backend)


def with_separator(arguments: Sequence[str]) -> list[str]:
    """The arguments of `crosstrain` with `--` before the script, so that what follows is left to the script."""
    found = list(arguments)
    if found[:1] != ["launch"]:
        return found
    flags = {"module", "test", "dry-run", "help"}
    index = 1
    while index < len(found) and found[index].startswith("-") and found[index] != "--":
        takes_value = "=" not in found[index] and found[index].lstrip("-").replace("_", "-") not in {*flags, "h"}
        index += 2 if takes_value else 1
    if index < len(found) and found[index] != "--":
        found.insert(index, "--")
    return found


def _spec(options: Options, command: tuple[str, ...], *, module: bool) -> LaunchSpec:
    return LaunchSpec(
        script=command[0],
        args=command[1:],
        module=module,
        processes=options.processes,
        devices_per_process=options.devices_per_process,
        hosts=parse_hosts(options.hosts),
        node_rank=options.node_rank,
        port=options.port,
        max_restarts=options.max_restarts,
        grace_s=options.grace_s,
    )
