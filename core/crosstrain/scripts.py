"""Scripts that commands read: a Python file is run, and gives what it defines at its top level."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from crosstrain.errors import ConfigError, require_file


def load_script(path: Path, what: str) -> ModuleType:
    """Runs a Python file, under another name than `__main__`. It can import its neighbours, as with `python FILE`.

    Args:
        path: of the file.
        what: what it is to the command, for errors.

    Raises:
        ConfigError: no such file, or no Python file.
    """
    require_file(what, "Python", path)
    spec = importlib.util.spec_from_file_location(f"crosstrain_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{what} must be a Python file, got {path}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up what an annotation names
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec.loader.exec_module(module)
    return module
