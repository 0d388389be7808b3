"""Memory of the JAX engine: which errors say that there is none left, and what can be given back."""

import jax


def is_out_of_memory(error: BaseException) -> bool:
    """Whether XLA raised this for want of memory, while it compiled or while it ran.

    Source: XLA's status codes. The coordination service uses the same code for messages that are too large.
    """
    text = str(error)
    return isinstance(error, jax.errors.JaxRuntimeError) and (
        ("RESOURCE_EXHAUSTED" in text and "larger than max" not in text) or "CUDA_ERROR_OUT_OF_MEMORY" in text
    )


def free() -> None:
    """Drops compiled programs, which hold memory of their own. Arrays that nothing refers to are gone already."""
    jax.clear_caches()
