"""One call of `notebook_launcher` in a child: `python -m crosstrain.launch.call FOLDER INDEX`.

The session leaves `call.pkl` in the folder; process 0 leaves `result.pkl`, and one that fails `raised-INDEX.pkl`.
"""

import sys
from pathlib import Path
from typing import Any

import cloudpickle

from crosstrain.errors import LaunchError

MODULE = "crosstrain.launch.call"
_CALL, _RESULT = "call.pkl", "result.pkl"


def write(folder: Path, pickled: bytes) -> None:
    """Leaves a call for the children: a pickled pair of the search path and the pickled (function, args)."""
    (folder / _CALL).write_bytes(pickled)


def result(folder: Path) -> Any:
    """What process 0 returned."""
    return cloudpickle.loads((folder / _RESULT).read_bytes())


def raised(folder: Path, index: int | None) -> Exception | None:
    """What process `index` raised, where it could be sent."""
    path = _raised(folder, index)
    return cloudpickle.loads(path.read_bytes()) if path.exists() else None


def main(folder: Path, index: int) -> None:
    """Calls the function and leaves what it returned or raised."""
    path, pickled = cloudpickle.loads((folder / _CALL).read_bytes())
    sys.path[:] = path
    function, args = cloudpickle.loads(pickled)
    try:
        returned = function(*args)
    except Exception as error:
        _leave(_raised(folder, index), error)
        raise
    if index == 0:
        try:
            (folder / _RESULT).write_bytes(cloudpickle.dumps(returned))
        except Exception as error:
            raise LaunchError(
                f"the result of process 0 must be sendable, got {type(returned).__name__}: {error}. "
                "Return numbers, NumPy arrays or state.snapshot(), not states or accelerators."
            ) from error


def _raised(folder: Path, index: int | None) -> Path:
    return folder / f"raised-{index}.pkl"


def _leave(path: Path, error: Exception) -> None:
    """Not what cannot be read again; its traceback is reported in any case."""
    try:
        data = cloudpickle.dumps(error)
        cloudpickle.loads(data)
    except Exception:
        return
    path.write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
