"""Every error that crosstrain raises on purpose.

One base class, so that a script can catch all of them, and a few subclasses that also derive from the
built-in exception a Python user would expect. Messages follow one form:
`<field> must be <rule>, got <field>=<value>. <fix>.`
"""

import numbers
from pathlib import Path
from typing import Any


class CrosstrainError(Exception):
    """Base class of all errors raised by crosstrain."""


class ConfigError(CrosstrainError, ValueError):
    """A spec, an option or a mesh that cannot work."""


def require_count(name: str, value: object, kind: "type[CrosstrainError] | None" = None) -> None:
    """Refuses what is no positive integer.

    Raises:
        ConfigError: or `kind`, names the number.
    """
    error = kind or ConfigError
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise error(f"{name} must be an integer, got {name}={value!r}. Use for example int({name}).")
    if value < 1:
        raise error(f"{name} must be at least 1, got {name}={value}.")


def require_spec(name: str, value: object, kind: type, example: str) -> None:
    """Refuses what is neither None nor of the class that an option takes.

    Raises:
        ConfigError: says what was given, and an example.
    """
    if value is not None:
        require_instance(name, value, kind, example)


def require_instance(name: str, value: object, kind: type, example: str) -> None:
    """Refuses what is not of the class that an argument has.

    Raises:
        ConfigError: says what was given, and an example.
    """
    if not isinstance(value, kind):
        given = repr(value)
        given = given if len(given) <= 200 else f"{given[:200]}..."  # a state dict would fill the screen
        raise ConfigError(
            f"{name} must be an instance of {kind.__name__}, got {name}={given}. Use for example {example}."
        )


def is_positive(value: Any) -> bool:
    """Whether this is a number above 0, which neither NaN nor a string of digits is."""
    try:
        return bool(value > 0)
    except TypeError:
        return False


def as_seed(seed: object) -> int:
    """A seed, which may be an integer of NumPy's, as Python's.

    Raises:
        ConfigError: no integer.
    """
    if not isinstance(seed, numbers.Integral):
        raise ConfigError(f"seed must be an integer, got seed={seed!r}. Use for example seed=0.")
    return int(seed)


def require_file(name: str, kind: str, path: Path) -> None:
    """Refuses a path at which no file is.

    Raises:
        ConfigError: says what is there instead.
    """
    if not path.is_file():
        why = "is a folder" if path.is_dir() else "does not exist"
        raise ConfigError(f"{name} must be a {kind} file, got {path}, which {why}.")


def require_folder(name: str, path: Path) -> None:
    """Refuses where no folder can be: something else is there already.

    Raises:
        ConfigError: names it.
    """
    there = next((each for each in (path, *path.parents) if each.exists()), None)
    if there is not None and not there.is_dir():
        raise ConfigError(f"{name} must be a folder, or nothing yet, got {name}={path}, where {there} is a file.")


class BackendError(CrosstrainError, ImportError):
    """An engine that is unknown or not installed."""


class ModelError(CrosstrainError, TypeError):
    """A model of the wrong framework, or inputs of a type the model cannot take."""


class DataError(CrosstrainError, ValueError):
    """A data source or a batch that cannot be used."""


class CheckpointError(CrosstrainError, ValueError):
    """A checkpoint that is missing, damaged, or of another model or run."""


class LossError(CrosstrainError, TypeError):
    """A loss function that returned something other than a scalar or a `Loss`."""


class CollectiveError(CrosstrainError, RuntimeError):
    """Processes that do not take part in the same collective, or give it other trees, shapes or types."""


class LaunchError(CrosstrainError, RuntimeError):
    """Processes of a job that failed, were killed, or did not find each other."""


class OutOfMemoryError(CrosstrainError, MemoryError):
    """Not even the smallest batch fits into memory."""


class NonFiniteLossError(CrosstrainError, FloatingPointError):
    """A loss that became NaN or infinite; `step` is the optimizer step (0-based) that produced it."""

    def __init__(self, message: str, *, step: int) -> None:
        super().__init__(message)
        self.step = step
