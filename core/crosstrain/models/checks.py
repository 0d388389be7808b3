"""Checks of layers and model inputs that need only shapes and types, so that they run before any device does."""

from typing import Any

from crosstrain.errors import ConfigError, ModelError


def require_floating(name: str, values: Any, is_floating: bool) -> None:
    """Refuses integer inputs where floats are needed.

    Raises:
        ModelError: says how to convert.
    """
    if not is_floating:
        raise ModelError(
            f"{name} must be floating, got {values.dtype}. Normalise it in the loader: "
            f"transform=lambda b: {{**b, '{name}': b['{name}'].astype('float32') / 255}}."
        )


def require_integer(name: str, values: Any, is_floating: bool) -> None:
    """Refuses floating inputs where token ids are needed.

    Raises:
        ModelError: says what was given.
    """
    if is_floating:
        raise ModelError(
            f"{name} must be integers, got {values.dtype}. "
            f"Pass {'token ids' if name == 'tokens' else 'a number per document'}."
        )


def require_shape(name: str, values: Any, expected: tuple[int | str, ...]) -> None:
    """Refuses inputs of another shape; strings in `expected` stand for any size.

    Raises:
        ModelError: gives both shapes.
    """
    shape = tuple(values.shape)
    fits = len(shape) == len(expected) and all(
        isinstance(want, str) or got == want for got, want in zip(shape, expected, strict=False)
    )
    if not fits:
        wanted = ", ".join(str(size) for size in expected)
        raise ModelError(f"{name} must have shape ({wanted}), got {shape}. Change the input or the model's config.")


def require_length(length: int, longest: int) -> None:
    """Refuses token sequences longer than the model's table of positions.

    Raises:
        ModelError: gives both lengths.
    """
    if length > longest:
        raise ModelError(
            f"tokens must have at most max_seq_len={longest} positions, got {length}. "
            "Use shorter windows, or a larger max_seq_len."
        )


def require_parts(length: int, parts: int) -> None:
    """Refuses sequences that the devices of the `context` axis cannot share.

    Raises:
        ModelError: gives the length and the axis.
    """
    if length % parts:
        raise ModelError(
            f"the sequence must be a multiple of the context axis, got {length} positions with context={parts}. "
            "Cut or pad it in the data, not in the loss function."
        )


def require_several(count: int) -> None:
    """Refuses a training batch that has one value per channel: it is its own mean, and has no unbiased variance.

    Raises:
        ModelError: says what to do.
    """
    if count < 2:
        raise ModelError(
            f"BatchNorm must have at least 2 values per channel to train on, got {count}. Use larger (micro-)batches "
            "or images, or drop_last=True where the last batch is the small one."
        )


def require_groups(groups: int, channels: int) -> None:
    """Refuses groups that do not divide the channels of a GroupNorm.

    Raises:
        ConfigError: gives both numbers.
    """
    if groups < 1 or channels % groups:
        raise ConfigError(
            f"groups must divide the channels, got groups={groups} for {channels} channels. "
            "1 normalises all channels together, as many groups as channels each by itself."
        )
