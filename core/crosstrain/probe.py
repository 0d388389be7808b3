"""`Probe`: everything one forward and backward pass computed, on the host, for comparing it with another engine's."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

Setting = float | str | bool | tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """One pass over a batch, without any update; the state does not change.

    Attributes:
        loss: sum / weight over the batch.
        activations: canonical module path -> output, in the order in which the modules finished where the engine
            knows it; a module that runs more than once has `path#1`, `path#2`, ... after `path`. The root is "".
        gradients: canonical parameter name -> gradient of the loss, canonical layout.
    """

    loss: float
    activations: Mapping[str, np.ndarray]
    gradients: Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleSettings:
    """What a layer was configured with, in words that both engines share.

    Attributes:
        kind: `linear`, `conv`, `embedding`, `layer_norm`, `rms_norm`, `batch_norm`, `group_norm`, `instance_norm` or
            `dropout`.
        values: for example `eps`, `momentum` (share of the new statistics), `groups`, `rate`, `stride`, `padding`.
    """

    kind: str
    values: Mapping[str, Setting] = field(default_factory=dict)
