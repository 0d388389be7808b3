"""Where compiled programs are kept, so that the second start of a script does not compile them again."""

import os
from pathlib import Path

from crosstrain.errors import ConfigError

CompileCache = bool | str | Path
"""True: the user's cache folder; False: nothing is changed; or a folder."""


def cache_folder(compile_cache: CompileCache, backend: str) -> Path | None:
    """The folder of one engine's programs, made where it is new; None where the framework is left as it is.

    That is so with False, and where the user's cache folder cannot be written.

    Raises:
        ConfigError: neither a bool nor a path, or a folder that was given and cannot be written.
    """
    if not isinstance(compile_cache, bool | str | Path):
        raise ConfigError(f"compile_cache must be True, False or a folder, got compile_cache={compile_cache!r}.")
    if compile_cache is False:
        return None
    folder = (_user_cache() if compile_cache is True else Path(compile_cache).expanduser()) / backend
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(folder, os.W_OK) else "it cannot be written"
    except OSError as error:
        reason = str(error)
    if reason and compile_cache is not True:
        raise ConfigError(
            f"compile_cache must be a folder that can be written, got compile_cache={str(compile_cache)!r}: {reason}. "
            "Use another, or False."
        )
    return None if reason else folder


def _user_cache() -> Path:
    """`$XDG_CACHE_HOME/crosstrain`, by default `~/.cache/crosstrain`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crosstrain"
