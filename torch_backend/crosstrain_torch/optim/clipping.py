"""The global norm of gradients, and clipping; see `crosstrain.optim.Clipping`."""

import torch

from crosstrain.optim import Clipping
from crosstrain_torch.shards import Shards


def global_norm(params: list[torch.Tensor], shards: Shards) -> torch.Tensor:
    """L2 norm over all gradients of these local parameters together, each gradient whole."""
    grads = [param.grad for param in params if param.grad is not None]
    if not shards.is_spread:
        return norm_of(grads)
    return shards.total_norm([param for param in params if param.grad is not None], grads)


def norm_of(grads: list[torch.Tensor]) -> torch.Tensor:
    """L2 norm over whole gradients together."""
    return torch.nn.utils.get_total_norm(grads)


def clip(params: list[torch.Tensor], clipping: Clipping, shards: Shards, norm: torch.Tensor | None = None) -> None:
    """Brings gradients within the limits, in place; `norm` is their global norm where it is known.

    `torch.nn.utils.clip_grad_norm_` adds 1e-6 to the norm; the definition does not.
    """
    grads = [param.grad for param in params if param.grad is not None]
    if clipping.norm is not None and norm is None and (grads or shards.is_spread):
        norm = global_norm(params, shards)
    if grads:
        limit(grads, clipping, norm)


def limit(grads: list[torch.Tensor], clipping: Clipping, norm: torch.Tensor | None) -> None:
    """As `clip`, of gradients whose norm is known where it matters."""
    if clipping.value is not None:
        torch._foreach_clamp_min_(grads, -clipping.value)
        torch._foreach_clamp_max_(grads, clipping.value)
    elif clipping.norm is not None and norm is not None:
        torch._foreach_mul_(grads, torch.clamp(clipping.norm / norm, max=1.0))
