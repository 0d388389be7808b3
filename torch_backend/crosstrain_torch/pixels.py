"""Pixels of transforms in torch, and the function that changes a batch on the device."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from crosstrain.data.device import Chain
from crosstrain.data.pixels import Pixels

Batch = dict[str, torch.Tensor]


class TorchPixels(Pixels):
    """See `crosstrain.data.pixels.Pixels`."""

    def constant(self, values: np.ndarray, like: torch.Tensor) -> torch.Tensor:
        """See `Pixels`."""
        return torch.from_numpy(np.array(values)).to(like.device)

    def cast(self, values: torch.Tensor, dtype: str) -> torch.Tensor:
        """See `Pixels`."""
        return values.to(getattr(torch, dtype))

    def product(self, left: Any, right: Any) -> Any:
        """See `Pixels`."""
        return left * right

    def clip(self, values: torch.Tensor, low: float, high: float) -> torch.Tensor:
        """See `Pixels`."""
        return values.clamp(low, high)

    def rint(self, values: torch.Tensor) -> torch.Tensor:
        """See `Pixels`."""
        return values.round()

    def stack(self, arrays: list[torch.Tensor]) -> torch.Tensor:
        """See `Pixels`."""
        return torch.stack(arrays, dim=-1)

    def take(self, values: torch.Tensor, positions: np.ndarray, axis: int) -> torch.Tensor:
        """See `Pixels`."""
        return values.index_select(axis, self.constant(positions, values))

    def gather(self, images: torch.Tensor, lines: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """See `Pixels`."""
        rows = torch.arange(images.shape[0], device=images.device)
        return images[rows[:, None, None], lines.long()[:, :, None], columns.long()[:, None, :]]

    def mirror(self, images: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """See `Pixels`."""
        return torch.where(chosen[:, None, None, None], images.flip(2), images)

    def cover(self, images: torch.Tensor, mask: torch.Tensor, others: Any) -> torch.Tensor:
        """See `Pixels`."""
        return torch.where(mask[..., None], others, images)


class Augment:
    """Changes batches on the device."""

    @torch.no_grad()
    def __call__(self, chain: Chain, fields: Mapping[str, torch.Tensor], drawn: Mapping[str, torch.Tensor]) -> Batch:
        """This process's fields and what was drawn for them."""
        return chain.run(TorchPixels(), fields, drawn)
