"""The global norm of gradients, and clipping by it."""

import torch


def global_norm(grads: list[torch.Tensor]) -> torch.Tensor:
    """L2 norm over all gradients together."""
    return torch.nn.utils.get_total_norm(grads)


def clip_by_global_norm(grads: list[torch.Tensor], norm: torch.Tensor, clip_norm: float) -> None:
    """g = g min(1, clip_norm / norm), in place (Pascanu et al. 2013); without torch's 1e-6 in the denominator."""
    torch._foreach_mul_(grads, torch.clamp(clip_norm / norm, max=1.0))
