"""`Launcher`: what an engine says about starting processes. Its module `launch` holds one, under this name."""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from crosstrain.launch.spec import LaunchSpec

Cluster = Literal["slurm", "tpu", "gke"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where one process stands among all of a run.

    Attributes:
        index: 0-based, over all hosts.
        count: processes over all hosts.
        local_index: 0-based, on this host.
        address: `host:port` at which process 0 is met.
        devices: devices of each process; None for the engine's usual number.
    """

    index: int
    count: int
    local_index: int
    address: str
    devices: int | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that did not end well: its index over all hosts if that is known, its id and its exit code."""

    index: int | None
    pid: int
    exit_code: int
    """Negative: the number of the signal that killed it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What a launcher is to start on this host.

    Attributes:
        spec: what the user asked for.
        node_rank: which host this is.
        folder: where the processes report, see `reports`.
        command: the command line of one process, given its place, or None where the environment tells it.
    """

    spec: LaunchSpec
    node_rank: int
    folder: Path
    command: Callable[[Place | None], list[str]]


class Launcher(abc.ABC):
    """How the processes of one engine are started, and how each of them joins the others.

    Attributes:
        name: the engine's.
        clusters: what it runs on beside named hosts.
        tasks_are_processes: every task that a cluster starts is one process of the run. False: one task on each node,
            an agent that starts that node's processes.
    """

    name: ClassVar[str]
    clusters: ClassVar[tuple[Cluster, ...]] = ("slurm",)
    tasks_are_processes: ClassVar[bool]

    @abc.abstractmethod
    def check(self, spec: LaunchSpec) -> None:
        """Refuses what this engine cannot start.

        Raises:
            ConfigError: says what to do instead.
        """

    @abc.abstractmethod
    def run(self, job: Job) -> list[Ended]:
        """Starts the processes of this host and returns when all of them have ended.

        Returns:
            Those that failed in the last attempt; empty after success.

        Raises:
            Interrupted: a signal ended the job.
        """

    @abc.abstractmethod
    def join(self, place: Place | None) -> Place | None:
        """In a child, before the script: meets the other processes at `place`, or as the environment says.

        Returns:
            The place, where the environment tells it and the script need not.
        """

    @abc.abstractmethod
    def held(self) -> str | None:
        """Why processes that this one starts would find no devices: it holds them itself. None when they can."""


class Interrupted(BaseException):
    """A signal reached the launcher; the processes have been ended."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
