"""Test-time augmentation: predictions for several views of the same images, averaged."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from crosstrain.data.loader import Loader
from crosstrain.data.transform import Compose, compose
from crosstrain.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Views:
    """The same examples in the same order, seen in several ways; `Trainer.predict` takes it and averages.

    Attributes:
        loaders: one for each view.
        weights: share of each view in the average.

    Raises:
        DataError: no view, or not one weight for each.
    """

    loaders: tuple[Loader, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.loaders or len(self.loaders) != len(self.weights):
            raise DataError(
                f"views must have one weight for each loader, got {len(self.loaders)} loaders and "
                f"{len(self.weights)} weights."
            )

    def average(self, predict: Callable[[Loader], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The weighted sum of what `predict` gives for every loader: arrays of equal shapes, by name."""
        total: dict[str, np.ndarray] = {}
        for loader, weight in zip(self.loaders, self.weights, strict=True):
            for name, values in predict(loader).items():
                total[name] = total.get(name, 0.0) + weight * values
        return total


def views(make: Callable[[Compose], Loader], *, pixels: int = 1, field: str = "image") -> Views:
    """Images as they are and mirrored, each in place and moved by some pixels to two opposite corners: six views.

    The views in place weigh 1/4 each, the moved ones 1/8 each.

    Args:
        make: transform -> loader, for example `lambda view: accelerator.loader(test, batch_size=500,
            transform=ct.data.compose(ct.data.normalise(mean, std), view))`. It must not shuffle.
        pixels: how far views are moved, up and left or down and right, with reflected borders; 0 for the mirror alone.
        field: of the images.

    Source: Jordan 2024 (airbench), section 3.5, whose `tta_level=2` this is with one pixel, and `tta_level=1` with 0.
    """
    from crosstrain.data.images import flip, translate

    if pixels < 0:
        raise DataError(f"pixels must be at least 0, got pixels={pixels}.")
    places = {(0, 0): 0.5, (-pixels, -pixels): 0.25, (pixels, pixels): 0.25} if pixels else {(0, 0): 1.0}
    loaders, weights = [], []
    for (down, right), weight in places.items():
        moved = [translate(down, right, field=field)] if down else []
        for mirrored in ([], [flip(1.0, field=field)]):
            loaders.append(make(compose(*moved, *mirrored)))
            weights.append(weight / 2)
    return Views(loaders=tuple(loaders), weights=tuple(weights))
