"""Transforms that mix two examples: mixup and cutmix.

The partner of an example is drawn from the whole source (`Context.partners`), so both are functions of
(seed, epoch, example). Labels are kept apart: `label` is the example's own, `partner_label` the partner's, and `mix`
(floating, shape (B,)) the share of its own, so that the loss of both papers is
mix * loss(label) + (1 - mix) * loss(partner_label). With `classes`, `log_target` holds the logarithms of the
mixed distribution, shape (B, classes), -inf where it is 0: `ops.kl_div(batch["log_target"], logits)` is that
cross-entropy less the entropy of the target, which no weight changes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from crosstrain.data.images import require_probability
from crosstrain.data.pixels import Images, MixingTransform, Pixels, dtype_name
from crosstrain.data.sources import Arrays
from crosstrain.data.transform import Context, Transform
from crosstrain.errors import DataError, require_count


@dataclass(frozen=True, slots=True)
class _Mixing(MixingTransform):
    alpha: float
    probability: float
    classes: int | None
    field: str
    label: str

    def _share(self, images: Images, context: Context) -> np.ndarray:
        """lambda of each example, float64, shape (B,); 1 where the example stays as it is."""
        if images.dtype.kind != "f":
            raise DataError(
                f"{self.field!r} must be floating for {self.name}, got {images.dtype}. Normalise it before."
            )
        share = beta(context, self.alpha)
        return np.where(context.uniform(1, "applied")[:, 0] < self.probability, share, 1.0)

    def labels(self, fields: Arrays, partners: Arrays, drawn: Arrays) -> Arrays:
        if self.label not in fields:
            raise DataError(f"{self.name} needs the field {self.label!r}, but the batch has {sorted(fields)}.")
        own, other, share = fields[self.label], partners[self.label], drawn["share"]
        mixed = {**fields, f"partner_{self.label}": other, "mix": share}
        if self.classes is not None:
            mixed["log_target"] = _log_target(own, other, share, self.classes)
        return mixed


class _Mixup(_Mixing):
    @property
    def name(self) -> str:
        return "mixup"

    def draw(self, images: Images, context: Context) -> Arrays:
        return {"share": self._share(images, context)}

    def pixels(self, ops: Pixels, images: Any, drawn: Mapping[str, Any], others: Any) -> Any:
        weight = ops.cast(drawn["share"], dtype_name(images))[:, None, None, None]
        return ops.product(weight, images) + ops.product(1 - weight, others)


class _Cutmix(_Mixing):
    @property
    def name(self) -> str:
        return "cutmix"

    def draw(self, images: Images, context: Context) -> Arrays:
        size = np.array(images.shape[1:3])
        side = np.floor(size * np.sqrt(1.0 - self._share(images, context))[:, None])
        first = np.floor(context.uniform(2, "centre") * size) - side // 2
        first, end = (np.clip(corner, 0, size).astype(np.int32) for corner in (first, first + side))
        # The box is clipped at the border, so the share is what is left of the example's own pixels.
        return {"first": first, "end": end, "share": 1.0 - (end - first).prod(axis=1) / size.prod()}

    def pixels(self, ops: Pixels, images: Any, drawn: Mapping[str, Any], others: Any) -> Any:
        return ops.cover(images, ops.box(drawn["first"], drawn["end"], *images.shape[1:3]), others)


def mixup(
    alpha: float = 0.2,
    *,
    probability: float = 1.0,
    classes: int | None = None,
    field: str = "image",
    label: str = "label",
) -> Transform:
    """mix * image + (1 - mix) * partner, mix ~ Beta(alpha, alpha) (Zhang et al. 2018, equation 1), per example.

    The paper's code draws one mix per batch and the partner within the batch; see the head of this file.

    Args:
        alpha: positive; 0.1 to 0.4 in the paper on ImageNet, 1 on CIFAR-10.
        probability: with which an example is mixed at all.
        classes: also give `log_target`.
        field: of the images, floating.
        label: field of the class indices.

    Raises:
        DataError: an option out of its range.
    """
    return _Mixup(*_checked(alpha, probability, classes), field, label)


def cutmix(
    alpha: float = 1.0,
    *,
    probability: float = 1.0,
    classes: int | None = None,
    field: str = "image",
    label: str = "label",
) -> Transform:
    """Covers a box of the image by the partner's (Yun et al. 2019, section 3.1).

    The box has the sides floor(H sqrt(1 - l)) and floor(W sqrt(1 - l)), l ~ Beta(alpha, alpha), a centre drawn
    uniformly over the pixels, and is clipped at the border; `mix` is the share of the pixels that stay.

    Args:
        alpha: positive; 1 in the paper.
        probability: with which an example is mixed at all; 0.5 in the paper on CIFAR.
        classes: also give `log_target`.
        field: of the images, floating.
        label: field of the class indices.

    Raises:
        DataError: an option out of its range.
    """
    return _Cutmix(*_checked(alpha, probability, classes), field, label)


def _checked(alpha: float, probability: float, classes: int | None) -> tuple[float, float, int | None]:
    if not 0 < alpha < np.inf:
        raise DataError(f"alpha must be positive, got alpha={alpha}.")
    require_probability("probability", probability)
    if classes is not None:
        require_count("classes", classes, DataError)
    return float(alpha), probability, classes


def _log_target(own: np.ndarray, other: np.ndarray, share: np.ndarray, classes: int) -> np.ndarray:
    labels = np.stack([own, other])
    if labels.ndim != 2 or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"labels must be class indices in [0, {classes}) of shape (B,), got {labels.dtype} of shape {own.shape} "
            f"from {labels.min()} to {labels.max()}."
        )
    target = np.zeros((len(own), classes))
    rows = np.arange(len(own))
    target[rows, own] += share
    target[rows, other] += 1.0 - share
    with np.errstate(divide="ignore"):
        return np.log(target)


def beta(context: Context, alpha: float) -> np.ndarray:
    """Beta(alpha, alpha) for every example, float64, shape (B,): X / (X + Y) of two Gamma(alpha) variables.

    In logarithms, since a Gamma variable of a small alpha is often below the smallest number.
    """
    first, second = _log_gamma_variable(context, alpha, "x"), _log_gamma_variable(context, alpha, "y")
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(second - first))


def _log_gamma_variable(context: Context, alpha: float, name: str) -> np.ndarray:
    """By rejection (Marsaglia and Tsang 2000): example i takes its first accepted attempt of its own stream."""
    shape = alpha + 1.0 if alpha < 1 else alpha
    d = shape - 1.0 / 3.0
    c = 1.0 / np.sqrt(9.0 * d)
    result = np.full(len(context.examples), np.nan)
    attempt = 0
    while (open_ := np.isnan(result)).any():
        draws = context.uniform(3, f"{name}{attempt}")
        radius = np.sqrt(-2.0 * np.log1p(-draws[:, 0]))
        normal = radius * np.cos(2.0 * np.pi * draws[:, 1])
        cube = np.maximum(1.0 + c * normal, 0.0) ** 3
        with np.errstate(divide="ignore", invalid="ignore"):
            bound = 0.5 * normal**2 + d * (1.0 - cube + np.log(cube))
            accepted = (cube > 0) & (np.log(draws[:, 2]) < bound)
            result = np.where(open_ & accepted, np.log(d * cube), result)
        attempt += 1
    if alpha < 1:
        result += np.log1p(-context.uniform(1, f"{name}boost")[:, 0]) / alpha
    return result
