"""The global norm of gradients, and clipping; see `crosstrain.optim.Clipping`."""

import torch

from crosstrain.optim import Clipping


def global_norm(grads: list[torch.Tensor]) -> torch.Tensor:
    """L2 norm over all gradients together."""
    return torch.nn.utils.get_total_norm(grads)


def clip(grads: list[torch.Tensor], clipping: Clipping, norm: torch.Tensor | None = None) -> None:
    """Brings gradients within the limits, in place; `norm` is their global norm where it is known.

    `torch.nn.utils.clip_grad_norm_` adds 1e-6 to the norm; the definition does not.
    """
    if not grads:
        return
    if clipping.value is not None:
        torch._foreach_clamp_min_(grads, -clipping.value)
        torch._foreach_clamp_max_(grads, clipping.value)
    elif clipping.norm is not None:
        torch._foreach_mul_(grads, torch.clamp(clipping.norm / (global_norm(grads) if norm is None else norm), max=1.0))
