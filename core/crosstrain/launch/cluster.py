"""What the environment says about a cluster, and which of the named hosts this machine is."""

import os
import re
import socket
from dataclasses import dataclass

from crosstrain.errors import ConfigError
from crosstrain.launch.spec import LaunchSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class SlurmStep:
    """A job step, as srun describes it to each of its tasks.

    Attributes:
        tasks: over all nodes.
        nodes: of the step.
        node_rank: of this task, 0-based.
        first_host: where node 0 is.
        port: in [61440, 65535], a function of the job id, the same on all nodes; JAX uses the same one.
    """

    tasks: int
    nodes: int
    node_rank: int
    first_host: str
    port: int


def slurm() -> SlurmStep | None:
    """The step that this process is a task of; None outside srun, as in the batch script itself."""
    found = os.environ
    needed = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID")
    if not all(name in found for name in needed):
        return None
    return SlurmStep(
        tasks=int(found["SLURM_NTASKS"]),
        nodes=int(found.get("SLURM_STEP_NUM_NODES") or found.get("SLURM_NNODES") or 1),
        node_rank=int(found.get("SLURM_NODEID", "0")),
        first_host=first_host(found["SLURM_STEP_NODELIST"]),
        port=int(found["SLURM_JOB_ID"]) % 2**12 + (65535 - 2**12 + 1),
    )


def first_host(node_list: str) -> str:
    """The first name of Slurm's list: `node[03-07,9],x1` is `node03`."""
    found = re.match(r"([^,\[]+)(?:\[([^,\-\]]+)[^\]]*\]([^,\[]*))?", node_list)
    if found is None:
        raise ConfigError(f"SLURM_STEP_NODELIST must be a list of hosts, got {node_list!r}.")
    return "".join(part or "" for part in found.groups())


def node_rank(spec: LaunchSpec) -> int:
    """Which of the hosts this machine is.

    Raises:
        ConfigError: none of them has one of its names, or several do.
    """
    if spec.node_rank is not None:
        return spec.node_rank
    if not spec.hosts:
        return 0
    own = {socket.gethostname(), socket.gethostname().partition(".")[0], socket.getfqdn()}
    found = [rank for rank, host in enumerate(spec.hosts) if host in own]
    if len(found) != 1:
        raise ConfigError(
            f"node_rank must be given where this machine is not one of hosts by name, got hosts={','.join(spec.hosts)} "
            f"on {socket.gethostname()}. Use --node-rank; --dry-run prints the command of each host."
        )
    return found[0]
