"""`LaunchSpec`: what is started, and where. Everything that can be refused without a device is refused here."""

import re
from dataclasses import dataclass
from pathlib import Path

from crosstrain.errors import ConfigError, require_count

DEFAULT_PORT = 29500


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchSpec:
    """A script and the processes that run it.

    Attributes:
        script: path of a Python file, or with `module` the dotted name of a module.
        args: what the script gets, as it is.
        module: run `script` as `python -m` does.
        processes: on each host; None leaves it to the engine, or to the cluster that it detects.
        devices_per_process: JAX only: virtual CPU devices of each process, or how many GPUs each one takes.
        hosts: names or addresses, the first one is the meeting point; empty for this machine alone.
        node_rank: which of `hosts` this machine is, 0-based; None finds it by name.
        port: on the first host; None takes 29500 with several hosts, and a free one otherwise.
        max_restarts: how often the job starts again after a failure.
        grace_s: seconds between a signal to the processes and SIGKILL, in which they save.

    Raises:
        ConfigError: a number out of range, a host that is given twice, a script that is not there.
    """

    script: str
    args: tuple[str, ...] = ()
    module: bool = False
    processes: int | None = None
    devices_per_process: int | None = None
    hosts: tuple[str, ...] = ()
    node_rank: int | None = None
    port: int | None = None
    max_restarts: int = 0
    grace_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("processes", "devices_per_process"):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name))
        if self.max_restarts < 0:
            raise ConfigError(f"max_restarts must be at least 0, got max_restarts={self.max_restarts}.")
        if not 0 <= self.grace_s < float("inf"):
            raise ConfigError(f"grace_s must be seconds, 0 or more, got grace_s={self.grace_s}.")
        if self.port is not None and not 1 <= self.port <= 65535:
            raise ConfigError(f"port must be in [1, 65535], got port={self.port}.")
        _check_hosts(self.hosts)
        if self.node_rank is not None and not 0 <= self.node_rank < max(1, len(self.hosts)):
            raise ConfigError(
                f"node_rank must be in [0, {max(1, len(self.hosts))}), the number of hosts, got "
                f"node_rank={self.node_rank}. Name all machines: --hosts a,b."
            )
        _check_script(self.script, self.module)

    @property
    def node_count(self) -> int:
        """How many machines take part."""
        return max(1, len(self.hosts))

    @property
    def meeting_port(self) -> int:
        """The port on the first of several hosts."""
        return DEFAULT_PORT if self.port is None else self.port


def parse_hosts(text: str | None) -> tuple[str, ...]:
    """`a,b,c` as a tuple.

    Raises:
        ConfigError: an empty name among them.
    """
    if text is None:
        return ()
    hosts = tuple(each.strip() for each in text.split(","))
    if not all(hosts):
        raise ConfigError(f"hosts must be names separated by commas, got hosts={text!r}.")
    return hosts


def _check_hosts(hosts: tuple[str, ...]) -> None:
    twice = sorted({host for host in hosts if hosts.count(host) > 1})
    if twice:
        raise ConfigError(
            f"hosts must be named once each, got {', '.join(twice)} twice in hosts={','.join(hosts)}. "
            "For more processes on a host use --processes."
        )
    for host in hosts:
        if not re.fullmatch(r"[A-Za-z0-9_.\-]+|\[[0-9A-Fa-f:]+\]", host):
            raise ConfigError(
                f"hosts must be names or addresses, without ports, got {host!r}. Use --port for the port."
            )


def _check_script(script: str, module: bool) -> None:
    if module:
        if not all(part.isidentifier() for part in script.split(".")):
            raise ConfigError(f"a module must be a dotted name such as package.train, got {script!r}.")
        return
    path = Path(script)
    if path.is_dir():
        raise ConfigError(f"script must be a Python file, got the directory {script!r}. Name the file in it.")
    if not path.is_file():
        raise ConfigError(
            f"script must be a file that is there, got {script!r} in {Path.cwd()}. "
            "Give its path, or --module package.train for an installed module."
        )
