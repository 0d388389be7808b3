"""From a `LaunchSpec` to processes and an exit code."""

import tempfile
from pathlib import Path

from crosstrain import backends
from crosstrain.launch import child, cluster, reports, supervise
from crosstrain.launch.engine import Interrupted, Job
from crosstrain.launch.ports import require_free
from crosstrain.launch.spec import LaunchSpec


def run(spec: LaunchSpec, backend: str) -> int:
    """Starts the processes of this host and waits for them.

    Returns:
        0, or the exit code of the process that failed first, as a shell says it (128 + n for signal n); after a signal
        to the launcher 128 + that.

    Raises:
        ConfigError: what the engine or this machine cannot start.
    """
    launcher = backends.launcher(backend)
    launcher.check(spec)
    rank = cluster.node_rank(spec)
    if rank == 0 and (spec.hosts or spec.port is not None):
        require_free(spec.meeting_port)
    with tempfile.TemporaryDirectory(prefix="crosstrain-launch-") as name:
        folder = Path(name)
        job = Job(
            spec=spec,
            node_rank=rank,
            folder=folder,
            command=lambda place: child.command(
                backend, folder, place, (spec.script, *spec.args), module=spec.module, grace_s=spec.grace_s
            ),
        )
        try:
            failed = launcher.run(job)
        except Interrupted as signalled:
            supervise.say(f"ended by signal {signalled.number}; all processes have ended")
            return 128 + signalled.number
        if not failed:
            return 0
        supervise.say(reports.describe(folder, failed))
        return reports.exit_code(reports.cause(folder, failed))
