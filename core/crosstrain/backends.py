"""Finds engines through the entry-point group `crosstrain.backends`. The only place where core meets an engine.

An entry point is named after the module of the framework it needs (`jax`, `torch`), and its value is the engine's
subclass of `Accelerator`. A third party adds an engine by declaring one more entry point.
"""

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from crosstrain.errors import BackendError, ConfigError, ModelError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from crosstrain.launch import Launcher
    from crosstrain.planning import Planner

_Imported = TypeVar("_Imported")
GROUP = "crosstrain.backends"
CHILD = "crosstrain.launch.child"
"""The module that `crosstrain launch` runs in every process."""
logger = logging.getLogger("crosstrain")


def known() -> "dict[str, EntryPoint]":
    """Name -> entry point of every engine that is declared, whether or not its framework is installed."""
    from importlib.metadata import entry_points

    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def installed() -> tuple[str, ...]:
    """Names of the engines whose framework is installed. Imports none of them."""
    return tuple(name for name in known() if importlib.util.find_spec(name) is not None)


def load(backend: str | None) -> type[Any]:
    """The `Accelerator` subclass of an engine; None takes the one that is installed and logs which.

    Raises:
        BackendError: no such engine, its framework is not installed, or none is.
        ConfigError: `crosstrain launch` has started this process for another engine.
    """
    started = launched()
    backend = name_of(started if backend is None else backend)
    if started not in (None, backend):
        raise ConfigError(
            f"backend must be {started!r}, the engine this process was launched for, got backend={backend!r}: its "
            f"processes would not find each other. Use crosstrain launch --backend {backend}."
        )
    return _import(backend, known()[backend].load)


def launched() -> str | None:
    """The engine for which `crosstrain launch` has started this process, as its command line says; None otherwise."""
    words = sys.orig_argv
    return words[words.index("--backend") + 1] if CHILD in words and "--backend" in words else None


def launcher(backend: str) -> "Launcher":
    """How an engine starts processes: what `launcher()` gives in the module `launch` of its package.

    Raises:
        BackendError: as `load`, or the engine has no such module.
    """
    backend = name_of(backend)
    return _import(backend, lambda: _module(backend, "launch").launcher())


def planner(backend: str) -> "Planner":
    """How an engine plans a step: what `planner()` gives in the module `planning` of its package.

    Raises:
        BackendError: as `load`, or the engine has no such module.
    """
    backend = name_of(backend)
    return _import(backend, lambda: _module(backend, "planning").planner())


def name_of(backend: str | None) -> str:
    """The name of an engine that is installed; None takes the first that is, and logs which.

    Raises:
        BackendError: no such engine, its framework is not installed, or none is.
    """
    names = known()
    if backend is None:
        backend = _choose()
    if backend not in names:
        raise BackendError(f"backend must be one of {', '.join(names) or '(none declared)'}, got backend={backend!r}.")
    if backend not in installed():
        raise BackendError(
            f"backend must be installed, got backend={backend!r} but there is no module {backend!r}. "
            f"Run: pip install 'crosstrain[{backend}]'."
        )
    return backend


def _module(backend: str, name: str) -> Any:
    return importlib.import_module(f"{known()[backend].module}.{name}")


def _import(backend: str, importing: Callable[[], _Imported]) -> _Imported:
    try:
        return importing()
    except ModuleNotFoundError as error:
        raise BackendError(
            f"backend {backend!r} needs the module {error.name!r}, which is not installed. "
            f"Run: pip install 'crosstrain[{backend}]'."
        ) from error


def raise_wrong_model(model: Any, backend: str, expected: str) -> None:
    """Refuses a model that is not native to the engine.

    Raises:
        ModelError: always.
    """
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    if isinstance(model, type):
        raise ModelError(
            f"model must be an instance of {expected} on the {backend} engine, got the class {model.__name__}. "
            f"Call it: {model.__name__}(...)."
        )
    bases = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    owner = next((name for name in known() if name in bases), None)
    owner = "jax" if "flax" in bases else owner
    fix = f"Use Accelerator({owner!r})" if owner and owner != backend else f"Pass a {expected}"
    raise ModelError(f"model must be a {expected} on the {backend} engine, got {kind}. {fix}.")


def _choose() -> str:
    found = installed()
    if not found:
        raise BackendError(
            "an engine must be installed, found none. Run: pip install 'crosstrain[jax]' or 'crosstrain[torch]'."
        )
    logger.warning(
        "using the %s engine (installed: %s); name one to choose: Accelerator(%r)",
        found[0],
        ", ".join(found),
        found[0],
    )
    return found[0]
