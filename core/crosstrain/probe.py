"""`Probe`: everything one forward and backward pass computed, on the host, for comparing it with another engine's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

Setting = float | str | bool | tuple[int, ...]


class Event(NamedTuple):
    """A module is entered, with its inputs, or left, with its output.

    Attributes:
        kind: which of the two.
        module: canonical path of the call, as in `Probe.activations`.
    """

    kind: Literal["input", "output"]
    module: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """One pass over a batch, without any update; the state does not change.

    Attributes:
        loss: sum / weight over the batch.
        activations: canonical module path -> output (of several, the first); a module that runs more than once has
            `path#1`, `path#2`, ... after `path`. The root is "".
        gradients: canonical parameter name -> gradient of the loss, canonical layout.
        inputs: canonical module path -> floating arrays it was called with, in order.
        order: modules entered and left, in the order of execution as far as the engine knows it.
    """

    loss: float
    activations: Mapping[str, np.ndarray]
    gradients: Mapping[str, np.ndarray]
    inputs: Mapping[str, tuple[np.ndarray, ...]] = field(default_factory=dict)
    order: tuple[Event, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleSettings:
    """What a layer was configured with, in words that both engines share.

    Attributes:
        kind: `linear`, `conv`, `embedding`, `layer_norm`, `rms_norm`, `batch_norm`, `group_norm`, `attention` or
            `dropout`.
        values: for example `eps`, `momentum` (share of the new statistics), `rate`, `stride`, `padding`.
    """

    kind: str
    values: Mapping[str, Setting] = field(default_factory=dict)


MACHINE_EPS = "machine"
"""An eps that is the machine epsilon of the layer's input."""

NATIVE = "native"
"""Masks that a framework draws: no two engines draw the same."""


def dropout_values(rate: float, *, counted: bool) -> dict[str, Setting]:
    """Settings of a layer that drops values.

    Args:
        rate: share of the values that is dropped.
        counted: whether masks are crosstrain's, and so the same on every engine.
    """
    return {"rate": float(rate), "masks": ("counted" if counted else NATIVE) if rate else "none"}
