"""Bytes and seconds as people read them."""


def binary(count: float) -> str:
    """Bytes in the largest unit of 1024 below them."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def seconds(time_s: float) -> str:
    """A duration in ms below a second."""
    return f"{time_s * 1e3:.3g} ms" if time_s < 1 else f"{time_s:.3g} s"
