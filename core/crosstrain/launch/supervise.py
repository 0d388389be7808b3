"""Watching processes: one that fails ends the others within seconds, a signal ends all, and nothing is left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from types import FrameType

from crosstrain.launch.engine import Ended, Interrupted

FAILURE_GRACE_S = 5.0
"""Between the failure of a process and SIGKILL for those that wait for it."""
_POLL_S = 0.05
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _Signals:
    """Notes the signals that come; the second Ctrl-C does not wait."""

    def __init__(self) -> None:
        self.received: list[int] = []

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """While the block runs; in another thread than the main one nothing can be noted."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        heard = [number for number in _SIGNALS if not (number == signal.SIGHUP and ignores_hangup())]
        old = {number: signal.signal(number, self._note) for number in heard}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)


def run(commands: Mapping[int, list[str]], *, grace_s: float) -> list[Ended]:
    """Runs one process for each index until all have ended.

    Each is the leader of its own session, so that Ctrl-C reaches the launcher alone, and everything that a process
    starts goes with it.

    Returns:
        Those that failed by themselves; empty when none did.

    Raises:
        Interrupted: after SIGTERM, SIGINT or SIGHUP, once the processes have ended: by themselves within `grace_s`, or
            after Ctrl-C within five seconds, else by SIGKILL.
    """
    signals = _Signals()
    processes: dict[int, subprocess.Popen[bytes]] = {}
    with signals.listening():
        try:
            for index, command in commands.items():
                processes[index] = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
            failed = _watch(processes, signals)
            if signals.received:
                number = signals.received[0]
                _end(processes, number, FAILURE_GRACE_S if number == signal.SIGINT else grace_s, signals)
                raise Interrupted(number)
            if failed:
                _end(processes, signal.SIGTERM, FAILURE_GRACE_S, signals)
            return failed
        finally:
            for process in processes.values():
                kill_session(process.pid)
                process.wait()


def ignores_hangup() -> bool:
    """Whether the job is to live on when its terminal is gone: it was started by `nohup`."""
    return signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def kill_session(pid: int) -> None:
    """SIGKILL for a process and all that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def say(text: str) -> None:
    """One message of the launcher, after everything that the processes have printed."""
    sys.stdout.flush()
    print(text, file=sys.stderr, flush=True)


def _watch(processes: Mapping[int, subprocess.Popen[bytes]], signals: _Signals) -> list[Ended]:
    while not signals.received:
        failed = [Ended(index, each.pid, each.returncode) for index, each in processes.items() if each.poll()]
        if failed or all(each.returncode is not None for each in processes.values()):
            return failed
        time.sleep(_POLL_S)
    return []


def _end(processes: Mapping[int, subprocess.Popen[bytes]], number: int, within_s: float, signals: _Signals) -> None:
    for process in processes.values():
        if process.poll() is None:
            # To the whole session: data workers of a script have to hear of it, too.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
    came, deadline = len(signals.received), time.monotonic() + within_s
    while time.monotonic() < deadline and len(signals.received) == came:
        if all(process.poll() is not None for process in processes.values()):
            return
        time.sleep(_POLL_S)
