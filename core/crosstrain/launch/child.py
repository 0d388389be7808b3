"""One process of a job, `python -m crosstrain.launch.child`: joins the others and runs the script.

The script is run as `python script.py` would, and need not know that there are other processes. The end is not the
interpreter's own: a process that has failed leaves at once, since exit handlers of the frameworks wait for the others;
and one that has succeeded leaves after the exit handlers, since compiled code of a framework sometimes aborts when
the interpreter is taken down.
"""

import argparse
import atexit
import contextlib
import json
import os
import runpy
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn

from crosstrain import backends
from crosstrain.launch import reports, supervise
from crosstrain.launch.engine import Place

_WATCH_S = 0.5
_STOPPED, _INTERRUPTED = 128 + signal.SIGTERM, 128 + signal.SIGINT
_GOOD = (0, _STOPPED, _INTERRUPTED)


def command(
    backend: str, folder: Path, place: Place | None, script: Sequence[str], *, module: bool, grace_s: float
) -> list[str]:
    """The command line that starts a child of this process; `script` with its arguments."""
    options = ["--backend", backend, "--folder", str(folder), "--parent", str(os.getpid()), "--grace-s", str(grace_s)]
    options += ["--place", json.dumps(asdict(place))] if place else []
    options += ["--module"] if module else []
    return [sys.executable, "-u", "-m", backends.CHILD, *options, "--", *script]


def main() -> NoReturn:
    """Ends the process with the code of the script."""
    arguments = _parse(sys.argv[1:])
    folder = Path(arguments.folder)
    reports.started(folder)
    threading.Thread(target=_leave_with, args=(arguments.parent, arguments.grace_s), daemon=True).start()
    place = Place(**json.loads(arguments.place)) if arguments.place else None
    index = place.index if place else None
    try:
        place = backends.launcher(arguments.backend).join(place)
        index = place.index if place else None
        # Some frameworks have taken SIGTERM for themselves when they joined.
        signal.signal(signal.SIGTERM, _stop)
        if not supervise.ignores_hangup():
            signal.signal(signal.SIGHUP, _hang_up)
        _run(arguments.script, arguments.module)
        code = 0
    except BaseException as error:
        code, text = _judge(error, folder)
        if code not in _GOOD:
            reports.failed(folder, index, text)
            _leave(code, arguments.parent)
    reports.done(folder)
    _leave(code, arguments.parent)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=backends.CHILD)
    for name in ("--backend", "--folder", "--place"):
        parser.add_argument(name)
    parser.add_argument("--parent", type=int)
    parser.add_argument("--grace-s", type=float)
    parser.add_argument("--module", action="store_true")
    parser.add_argument("script", nargs="+")
    return parser.parse_args(arguments)


def _run(script: Sequence[str], module: bool) -> None:
    sys.argv = list(script)
    if module:
        # As `python -m` does: the working directory is searched first.
        sys.path.insert(0, os.getcwd())
        runpy.run_module(script[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(script[0]).resolve().parent))
        runpy.run_path(script[0], run_name="__main__")
    _finish()


def _finish() -> None:
    """What the interpreter does before it takes itself down: waits for threads, then calls exit handlers."""
    threading._shutdown()  # type: ignore[attr-defined]  # as multiprocessing does
    atexit._run_exitfuncs()


def _judge(error: BaseException, folder: Path) -> tuple[int, str]:
    """The exit code that the interpreter would give, and what to report of it."""
    if isinstance(error, KeyboardInterrupt):
        code: object = _INTERRUPTED
    elif isinstance(error, SystemExit):
        code = 0 if error.code is None else error.code
    else:
        return 1, _text(error)
    if not isinstance(code, int):
        return 1, str(code)
    # One that is told to end waits for those that still save, as a finished one does; but not for one that has failed.
    if code in _GOOD and not reports.any_failed(folder):
        try:
            _finish()
        except BaseException as late:
            return 1, _text(late)
    return (code & 0xFF or 1) if code else 0, ""


def _leave(code: int, parent: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    if os.getppid() != parent:
        # The launcher cannot do it any more: with this process goes what it has started.
        os.killpg(0, signal.SIGKILL)
    os._exit(code)


def _stop(number: int, frame: FrameType | None) -> None:
    """SIGTERM, for a script that does not listen to it itself: `finally` blocks run, nothing else does."""
    sys.exit(_STOPPED)


def _hang_up(number: int, frame: FrameType | None) -> None:
    """SIGHUP is SIGTERM, at which scripts save; by itself it would end the process at once."""
    os.kill(os.getpid(), signal.SIGTERM)


def _leave_with(parent: int, grace_s: float) -> None:
    """Follows a launcher that was killed: first as if it had sent SIGTERM, then for good."""
    while os.getppid() == parent:
        time.sleep(_WATCH_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_s)
    os.killpg(0, signal.SIGKILL)


def _text(error: BaseException) -> str:
    """The traceback from the script's own first line on."""
    return "".join(traceback.format_exception(type(error), error, _own(error.__traceback__)))


def _own(found: TracebackType | None) -> TracebackType | None:
    """Without the frames of the launcher at its top; a SyntaxError has no others."""
    ours = {__file__, str(Path(__file__).with_name("call.py"))}
    while found is not None and (
        found.tb_frame.f_code.co_filename in ours or found.tb_frame.f_globals.get("__name__") == "runpy"
    ):
        found = found.tb_next
    return found


if __name__ == "__main__":
    main()
