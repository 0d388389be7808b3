"""`notebook_launcher`: a function in several processes, from a notebook or any session that is running."""

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import cloudpickle

from crosstrain import backends
from crosstrain.errors import ConfigError, LaunchError, require_count
from crosstrain.launch import call, child, reports, supervise
from crosstrain.launch.engine import Ended, Interrupted, Place
from crosstrain.launch.ports import free_port
from crosstrain.launch.spec import LaunchSpec

_Result = TypeVar("_Result")


def notebook_launcher(
    function: Callable[..., _Result],
    args: Sequence[Any] = (),
    *,
    processes: int,
    backend: str | None = None,
    devices_per_process: int | None = None,
) -> _Result:
    """Calls `function(*args)` in `processes` new processes, which have met: `ct.Accelerator` in it spans them.

    The function is sent by value, so it may be one of the session itself. Nothing is forked: the processes start
    afresh, whatever the session has imported.

    Args:
        function: makes its own `Accelerator`, loaders and states; arrays of the session are copied to each process.
        args: its arguments.
        processes: how many, on this machine.
        backend: name of an engine; None takes the one that is installed.
        devices_per_process: JAX only: virtual CPU devices of each process, or how many GPUs each one takes.

    Returns:
        What process 0 returned.

    Raises:
        ConfigError: no positive number of processes, a function that cannot be sent, or devices that this session
            holds itself.
        LaunchError: a process was killed, or its result cannot be sent back.
        BaseException: what the function raised in the process that failed first, with that process's traceback as
            its cause.
    """
    require_count("processes", processes)
    if not callable(function):
        raise ConfigError(
            f"function must be callable, got {type(function).__name__}. Use notebook_launcher(train, (x,), ...)."
        )
    if isinstance(args, str | bytes) or not isinstance(args, Sequence):
        raise ConfigError(f"args must be a tuple of arguments, got {type(args).__name__}. Use args=(value,).")
    backend = backends.name_of(backend)
    launcher = backends.launcher(backend)
    launcher.check(
        LaunchSpec(script=call.MODULE, module=True, processes=processes, devices_per_process=devices_per_process)
    )
    held = launcher.held()
    if held is not None:
        raise ConfigError(
            f"the devices must be free for the processes, but {held}. Restart the kernel and call notebook_launcher "
            "before anything else that uses them; make the Accelerator inside the function."
        )
    pickled = _pickled(function, args)
    with tempfile.TemporaryDirectory(prefix="crosstrain-notebook-") as name:
        folder = Path(name)
        call.write(folder, pickled)
        address = f"127.0.0.1:{free_port()}"
        commands = {
            index: child.command(
                backend,
                folder,
                Place(index=index, count=processes, local_index=index, address=address, devices=devices_per_process),
                (call.MODULE, name, str(index)),
                module=True,
                grace_s=supervise.FAILURE_GRACE_S,
            )
            for index in range(processes)
        }
        try:
            failed = supervise.run(commands, grace_s=supervise.FAILURE_GRACE_S)
        except Interrupted:
            raise KeyboardInterrupt from None
        if failed:
            _raise(folder, failed)
        return call.result(folder)


class _ChildTraceback(Exception):  # noqa: N818  # it stands where a traceback does
    """Shows where in the other process an exception was raised."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _pickled(function: Callable[..., Any], args: Sequence[Any]) -> bytes:
    try:
        # The search path comes along: a session may have added to it what the function imports.
        return cloudpickle.dumps((list(sys.path), cloudpickle.dumps((function, tuple(args)))))
    except Exception as error:
        name = getattr(function, "__qualname__", repr(function))
        raise ConfigError(
            f"function and args must be sendable to other processes, got {name}: {type(error).__name__}: {error}. "
            "Make accelerators, locks, open files and loaders inside the function."
        ) from error


def _raise(folder: Path, failed: list[Ended]) -> NoReturn:
    first = reports.cause(folder, failed)
    words = reports.describe(folder, failed)
    report = reports.read(folder, first.pid)
    raised = call.raised(folder, first.index) if report is not None else None
    if raised is None:
        raise LaunchError(words)
    raise raised from _ChildTraceback(words)
