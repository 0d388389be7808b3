"""JAX's persistent cache of compiled programs."""

from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache


def keep_programs(folder: Path | None) -> None:
    """Keeps what takes long to compile (JAX's own threshold: a second), unless JAX was told where, or not to."""
    config = jax.config
    if folder is None or not config.jax_enable_compilation_cache or config.jax_compilation_cache_dir is not None:
        return
    config.update("jax_compilation_cache_dir", str(folder))
    # JAX decides at the first program whether there is a cache.
    compilation_cache.reset_cache()
