"""Pixels of transforms in torch, and the function that changes a batch on the device."""

from typing import Any

import numpy as np
import torch

from crosstrain.data.device import Chain
from crosstrain.data.pixels import Pixels

Batch = dict[str, torch.Tensor]
# Torch moves few of the wide unsigned types.
_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


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

    def take(self, values: torch.Tensor, positions: np.ndarray | torch.Tensor, axis: int) -> torch.Tensor:
        """See `Pixels`."""
        chosen = positions if isinstance(positions, torch.Tensor) else self.constant(positions, values)
        return _movable(values).index_select(axis, chosen).view(values.dtype)

    def gather(self, images: torch.Tensor, lines: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """See `Pixels`."""
        batch, height, width, channels = images.shape
        # Whole lines, then the numbers of each: several times faster than one index of three dimensions.
        first = torch.arange(0, batch * height, height, device=images.device)[:, None]
        flat = _movable(images).reshape(batch * height, width * channels)
        chosen = flat.index_select(0, (first + lines).reshape(-1))
        numbers = columns.long()[:, :, None] * channels + torch.arange(channels, device=images.device)
        numbers = numbers.reshape(batch, 1, -1).expand(-1, lines.shape[1], -1)
        shape = (batch, lines.shape[1], columns.shape[1], channels)
        return chosen.reshape(batch, lines.shape[1], -1).gather(2, numbers).reshape(shape).view(images.dtype)

    def mirror(self, images: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """See `Pixels`."""
        movable = _movable(images)
        return torch.where(chosen[:, None, None, None], movable.flip(2), movable).view(images.dtype)

    def cover(self, images: torch.Tensor, mask: torch.Tensor, others: Any) -> torch.Tensor:
        """See `Pixels`."""
        return torch.where(mask[..., None], others, images)


def _movable(images: torch.Tensor) -> torch.Tensor:
    """The same bits in a type that every operation moves."""
    return images.view(_SIGNED.get(images.dtype, images.dtype))


class Augment:
    """Changes batches on the device."""

    @torch.no_grad()
    def __call__(self, chain: Chain, fields: Batch, drawn: Batch, held: Batch) -> Batch:
        """This process's fields and what was drawn for them; see `Chain.run`."""
        return chain.run(TorchPixels(), fields, drawn, held)
