"""`Writer`: what an engine gives to write native checkpoints."""

from pathlib import Path
from typing import Any, Protocol


class Writer(Protocol):
    """An engine's writer of native checkpoints: one at a time, from all processes together."""

    def prepare(self, state: Any) -> None:
        """Takes what host memory the copies of such a state need, in the background."""
        ...

    def start(self, state: Any, folder: Path) -> None:
        """Begins to write a state as it is now to a directory that does not exist yet. The next step may follow."""
        ...

    def wait(self) -> None:
        """Returns once all processes have written. Raises what went wrong."""
        ...

    def close(self) -> None:
        """Waits, and ends its threads."""
        ...


def written(writer: Writer) -> None:
    """Waits for a writer; frameworks say in types of their own what went wrong.

    Raises:
        OSError: it could not write.
    """
    try:
        writer.wait()
    except Exception as error:
        raise OSError(f"{error}") from error
