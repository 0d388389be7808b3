"""Inductor's cache of compiled programs, which torch keeps among temporary files unless it is told otherwise."""

import os
from pathlib import Path

from torch._inductor.runtime.cache_dir_utils import default_cache_dir

FOLDER = "TORCHINDUCTOR_CACHE_DIR"


def keep_programs(folder: Path | None) -> None:
    """Keeps programs in a folder, unless torch was told where; its processes that compile are told the same."""
    # torch puts its default there itself when it is imported.
    if folder is not None and os.environ.get(FOLDER) in (None, default_cache_dir()):
        os.environ[FOLDER] = str(folder)
