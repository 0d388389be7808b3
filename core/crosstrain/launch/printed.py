"""The exact commands of a job, for `--dry-run`: lines for a shell, and comments that say where each of them belongs."""

import shlex

from crosstrain.errors import ConfigError, require_count
from crosstrain.launch.engine import Cluster, Launcher
from crosstrain.launch.spec import LaunchSpec


def commands(
    spec: LaunchSpec, launcher: Launcher, cluster: Cluster | None, nodes: int | None, *, test: bool = False
) -> str:
    """One command for each host, or what a cluster's own tool takes.

    Raises:
        ConfigError: a cluster without a number of nodes or that this engine does not run on, or hosts that the cluster
            chooses itself.
    """
    if cluster is None:
        if nodes is not None:
            raise ConfigError(f"nodes must come with --cluster, got nodes={nodes}. Name the machines: --hosts a,b.")
        return "\n".join(line for rank in range(spec.node_count) for line in _on_host(spec, launcher.name, rank, test))
    if spec.hosts or spec.node_rank is not None:
        raise ConfigError(
            f"hosts must be left to the cluster, got hosts={','.join(spec.hosts)} with --cluster {cluster}."
        )
    if nodes is None:
        raise ConfigError(f"nodes must be given with --cluster {cluster}: the number of hosts. Use --nodes.")
    require_count("nodes", nodes)
    if cluster not in launcher.clusters:
        raise ConfigError(
            f"cluster must be one of {', '.join(launcher.clusters)} on the {launcher.name} engine, got {cluster!r}. "
            "Use another --backend, or --hosts."
        )
    return "\n".join({"slurm": _slurm, "tpu": _tpu, "gke": _gke}[cluster](spec, launcher, nodes, test))


def _on_host(spec: LaunchSpec, backend: str, rank: int, test: bool) -> list[str]:
    line = _line(spec, backend, test, node_rank=rank if spec.hosts else None)
    if not spec.hosts:
        return ["# on this machine", line]
    where = f"rendezvous {spec.hosts[0]}:{spec.meeting_port}"
    return [f"# on {spec.hosts[rank]}: node rank {rank} of {spec.node_count}, {where}", line]


def _slurm(spec: LaunchSpec, launcher: Launcher, nodes: int, test: bool) -> list[str]:
    tasks = (spec.processes or 1) if launcher.tasks_are_processes else 1
    ours = _line(spec, launcher.name, test, processes=not launcher.tasks_are_processes)
    srun = f"srun --nodes={nodes} --ntasks-per-node={tasks} --kill-on-bad-exit=1 {ours}"
    batch = (
        f"sbatch --nodes={nodes} --ntasks-per-node={tasks} --signal=TERM@{max(60, round(2 * spec.grace_s))} --requeue"
    )
    return [
        "# inside an allocation (salloc, or a batch script)",
        srun,
        "# as a batch job, which is told to save before its time is over",
        f"{batch} --wrap={shlex.quote(srun)}",
    ]


def _tpu(spec: LaunchSpec, launcher: Launcher, nodes: int, test: bool) -> list[str]:
    ours = shlex.quote(_line(spec, launcher.name, test))
    ssh = 'gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE"'
    lines = ["# all hosts of the slice at once; set TPU_NAME and ZONE", f"{ssh} --worker=all --command={ours}"]
    for worker in range(nodes):
        lines += [f"# or host {worker} of {nodes}", f"{ssh} --worker={worker} --command={ours}"]
    return lines


def _gke(spec: LaunchSpec, launcher: Launcher, nodes: int, test: bool) -> list[str]:
    words = ", ".join(f'"{word}"' for word in shlex.split(_line(spec, launcher.name, test)))
    return [
        "# an Indexed Job with one pod for each host; on GPUs its service account may read pods and jobs",
        f"completions: {nodes}",
        f"parallelism: {nodes}",
        "completionMode: Indexed",
        f"command: [{words}]",
    ]


def _line(spec: LaunchSpec, backend: str, test: bool, *, node_rank: int | None = None, processes: bool = True) -> str:
    words = ["crosstrain", "launch", "--backend", backend]
    given = {
        "--processes": spec.processes if processes else None,
        "--devices-per-process": spec.devices_per_process,
        "--hosts": ",".join(spec.hosts) or None,
        "--node-rank": node_rank,
        "--port": spec.meeting_port if spec.hosts else spec.port,
        "--max-restarts": spec.max_restarts or None,
        "--grace-s": None if spec.grace_s == 30 else f"{spec.grace_s:g}",
    }
    words += [word for name, value in given.items() if value is not None for word in (name, str(value))]
    if test:
        return shlex.join([*words, "--test"])
    words += ["--module"] if spec.module else []
    return shlex.join([*words, spec.script, *spec.args])
