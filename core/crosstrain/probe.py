"""What an engine shows of a model, for comparing it with another engine's: settings, and all that one pass computed."""

# mypy: disable-error-code="empty-body"
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from crosstrain.abstract import abstractmethod

if TYPE_CHECKING:
    from crosstrain.step import LossFn

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
    """One pass over a global batch, without any update; the state does not change.

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
        kind: `linear`, `conv`, `embedding`, `layer_norm`, `rms_norm`, `batch_norm`, `group_norm`, `instance_norm`,
            `attention` or `dropout`.
        values: for example `eps`, `momentum` (share of the new statistics), `groups`, `rate`, `drops`, `stride`,
            `padding`.
    """

    kind: str
    values: Mapping[str, Setting] = field(default_factory=dict)


SAME = "SAME"
"""Padding by which a convolution gives size / stride outputs, rounded up: it depends on the size where strides are."""


def same_padding(
    kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...], sizes: tuple[int, ...] | None = None
) -> tuple[int, ...] | str:
    """`SAME` in numbers, before and behind each dimension; of an odd number the larger half is behind.

    Args:
        kernel: of the convolution, as the others.
        stride: see `kernel`.
        dilation: see `kernel`.
        sizes: of its input; without them, what has strides stays `SAME`.
    """
    if sizes is None and any(each > 1 for each in stride):
        return SAME
    found: list[int] = []
    for k, s, d, size in zip(kernel, stride, dilation, sizes or kernel, strict=True):
        total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        found += [total // 2, total - total // 2]
    return tuple(found)


MACHINE_EPS = "machine"
"""An eps that is the machine epsilon of the layer's input."""

NATIVE = "native"
"""Masks that a framework draws: no two engines draw the same."""


ELEMENTS = "elements"
"""Every value is dropped or kept by itself."""


def dropped_channels(dimensions: int) -> str:
    """What a layer drops as one that drops whole channels, each over so many dimensions."""
    return f"channels over {dimensions} dimension{'s' * (dimensions > 1)}"


def dropout_values(rate: float, *, counted: bool, drops: str = ELEMENTS) -> dict[str, Setting]:
    """Settings of a layer that drops values.

    Args:
        rate: share of the values that is dropped.
        counted: whether masks are crosstrain's, and so the same on every engine.
        drops: what is dropped or kept as one, in words that both engines share.
    """
    if not rate:
        return {"rate": 0.0, "masks": "none"}
    return {"rate": float(rate), "masks": "counted" if counted else NATIVE, "drops": drops}


class Inspection:
    """The part of the abstract `Accelerator` that looks inside models."""

    @abstractmethod
    def probe_step(self, loss_fn: "LossFn") -> Callable[..., Probe]:
        """Compiles `(state, batch, *others) -> Probe`: loss, outputs of all modules, all gradients; nothing changes."""

    @abstractmethod
    def module_settings(self, model: Any) -> dict[str, ModuleSettings]:
        """Settings of the layers of a native model that crosstrain knows.

        Returns:
            Canonical module path -> settings, in the order in which the modules were defined.
        """

    @abstractmethod
    def definition_order(self, model: Any) -> list[str]:
        """Canonical paths of all modules of a native model, each with the names of its own parameters behind it.

        The order is that of definition, parents before children, of a model as its author made it: that of a state need
        not have it, since flax sorts attributes by name when it puts a model together.
        """

    @abstractmethod
    def change_setting(self, model: Any, path: str, name: str, value: Any) -> bool:
        """Sets one of `module_settings` on a native model; False where this engine cannot change it afterwards."""

    @abstractmethod
    def trace(self, folder: Path | str) -> AbstractContextManager[Any]:
        """Records what this process and its devices do inside, by the engine's profiler, under `folder/BACKEND`."""

    def framework_defaults(self) -> dict[str, Callable[[], AbstractContextManager[Any]]]:
        """Defaults of this framework that differ from the other's, by description.

        Each value makes a context in which the framework behaves as the other one does. For diagnosis only.
        """
        return {}
