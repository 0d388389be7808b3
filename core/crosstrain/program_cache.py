"""Where compiled programs are kept, so that the second start of a script does not compile them again."""

import os
from pathlib import Path

from crosstrain.errors import ConfigError

CompileCache = bool | str | Path
"""True: the user's cache folder; False: nothing is changed; or a folder."""


def cache_folder(compile_cache: CompileCache, backend: str) -> Path | None:
    """The folder of one engine's programs; None where the framework is left as it is.

    Raises:
        ConfigError: neither a bool nor a path.
    """
    if not isinstance(compile_cache, bool | str | Path):
        raise ConfigError(f"compile_cache must be True, False or a folder, got compile_cache={compile_cache!r}.")
    if compile_cache is False:
        return None
    root = _user_cache() if compile_cache is True else Path(compile_cache).expanduser()
    return root / backend


def _user_cache() -> Path:
    """`$XDG_CACHE_HOME/crosstrain`, by default `~/.cache/crosstrain`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crosstrain"
