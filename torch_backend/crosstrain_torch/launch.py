"""Starting torch's processes: torchrun's elastic agent, with all that it finds by itself."""

import os
import signal
import threading
import time
from pathlib import Path

import torch
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError

from crosstrain.cores import usable_cores
from crosstrain.errors import ConfigError, LaunchError
from crosstrain.launch import reports, supervise
from crosstrain.launch.cluster import slurm
from crosstrain.launch.engine import Ended, Interrupted, Job, Launcher, Place
from crosstrain.launch.spec import LaunchSpec


def launcher() -> Launcher:
    """The torch engine's."""
    return TorchLauncher()


class TorchLauncher(Launcher):
    """See `crosstrain.launch.Launcher`. One process per GPU, or one on a machine without."""

    name = "torch"
    tasks_are_processes = False

    def check(self, spec: LaunchSpec) -> None:
        """See `crosstrain.launch.Launcher`."""
        if spec.devices_per_process not in (None, 1):
            raise ConfigError(
                f"devices_per_process must be 1 on the torch engine, got {spec.devices_per_process}. "
                "Use --processes: torch has one process for each device."
            )
        gpus = torch.cuda.device_count()
        if gpus and (spec.processes or 1) > gpus:
            raise ConfigError(
                f"processes must be at most the number of GPUs of this host, got processes={spec.processes} for "
                f"{gpus}. Hide the GPUs (CUDA_VISIBLE_DEVICES=) to run on the CPU."
            )
        step = slurm()
        if step and step.tasks > step.nodes:
            raise ConfigError(
                f"Slurm must start one task on each node, got {step.tasks} tasks on {step.nodes} nodes. Use srun "
                "--ntasks-per-node=1; --processes says how many processes the launcher starts on each."
            )
        if step and step.nodes > 1 and spec.hosts:
            raise ConfigError(f"hosts must be left to Slurm inside srun, got hosts={','.join(spec.hosts)}.")

    def run(self, job: Job) -> list[Ended]:
        """See `crosstrain.launch.Launcher`."""
        arguments = torchrun.parse_args([*_options(job), "--no-python", *job.command(None)])
        if "OMP_NUM_THREADS" not in os.environ:
            # Torchrun would set 1, with a banner.
            os.environ["OMP_NUM_THREADS"] = str(max(1, usable_cores() // int(arguments.nproc_per_node)))
        # Else torch 2.13 keeps one store over restarts, and gloo meets at addresses of processes that have died.
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
        with _Siblings(job.folder) as siblings:
            try:
                torchrun.run(arguments)
            except ChildFailedError as error:
                failed = [Ended(rank, each.pid, each.exitcode) for rank, each in error.failures.items()]
                own = [each for each in failed if each.exit_code != -signal.SIGTERM and each.pid not in siblings.killed]
                return own or failed
            except SignalException as error:
                raise Interrupted(int(error.sigval)) from None
            except RendezvousError as error:
                raise LaunchError(
                    f"the hosts must meet, got {type(error).__name__}: {error}. Start the command of every host, and "
                    "check that the first one can be reached at the port that is printed by --dry-run."
                ) from error
        return []

    def join(self, place: Place | None) -> Place | None:
        """See `crosstrain.launch.Launcher`."""
        if place is not None:
            host, _, port = place.address.rpartition(":")
            names = {"RANK": place.index, "WORLD_SIZE": place.count, "LOCAL_RANK": place.local_index}
            os.environ |= {name: str(value) for name, value in names.items()}
            os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": port}
            return place
        found = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        index, count, local = found
        return Place(index=index, count=count, local_index=local, address=os.environ["MASTER_ADDR"])

    def held(self) -> str | None:
        """See `crosstrain.launch.Launcher`."""
        return None


class _Siblings:
    """Ends the siblings of a failed process within seconds, also those that keep SIGTERM to themselves.

    The agent would wait half a minute for them.
    """

    def __init__(self, folder: Path) -> None:
        self.killed: set[int] = set()
        self._folder = folder
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_Siblings":
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._closed.set()
        self._thread.join()
        for pid in reports.children(self._folder):
            supervise.kill_session(pid)

    def _watch(self) -> None:
        failed: set[int] = set()
        while not self._closed.wait(0.2):
            children = reports.children(self._folder)
            alive = {pid for pid in children if _is_alive(pid)}
            new = {pid for pid in children if not (pid in alive or reports.is_done(self._folder, pid))} - failed
            failed |= new
            if not new:
                continue
            deadline = time.monotonic() + supervise.FAILURE_GRACE_S
            while time.monotonic() < deadline and any(_is_alive(pid) for pid in alive) and not self._closed.wait(0.1):
                pass
            for pid in alive:
                if _is_alive(pid):
                    self.killed.add(pid)
                    supervise.kill_session(pid)
            failed |= alive


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _options(job: Job) -> list[str]:
    spec, step = job.spec, slurm()
    options = [f"--nproc-per-node={spec.processes or torch.cuda.device_count() or 1}"]
    options += [f"--max-restarts={spec.max_restarts}", f"--shutdown-timeout={max(1, round(spec.grace_s))}"]
    options += [f"--log-dir={job.folder / 'agent'}"]
    if supervise.ignores_hangup():
        # The agent would listen to SIGHUP all the same.
        options += ["--signals-to-handle=SIGTERM,SIGINT,SIGQUIT"]
    if spec.hosts:
        return options + _meeting(spec, spec.node_count, job.node_rank, spec.hosts[0], spec.meeting_port)
    if step and step.nodes > 1:
        return options + _meeting(spec, step.nodes, step.node_rank, step.first_host, spec.port or step.port)
    if any(name.startswith("PET_") for name in os.environ):
        # A cluster's operator has said in torchrun's own variables where the others are.
        return options
    if spec.port is not None:
        return [*options, "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{spec.port}"]
    return [*options, "--standalone"]


def _meeting(spec: LaunchSpec, nodes: int, rank: int, host: str, port: int) -> list[str]:
    if spec.max_restarts:
        # Only here do the agents of all hosts restart together; torchrun numbers the hosts itself then.
        return [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={host}:{port}", "--rdzv-id=crosstrain"]
    return [f"--nnodes={nodes}", f"--node-rank={rank}", f"--master-addr={host}", f"--master-port={port}"]
