"""Adafactor; see `crosstrain.optim.Adafactor`."""

import math
from typing import Any

import torch

from crosstrain.optim import Adafactor
from crosstrain_torch.optim.base import Group, Kept, Rule, Tensors, column, start_step
from crosstrain_torch.shards import Shards


class AdafactorOptimizer(torch.optim.Adafactor):
    """torch's own, and the same update where this process holds parts: means and norms are those of whole parameters.

    Attributes:
        shards: see `Foreach`.
    """

    shards: Shards

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of every parameter that has a gradient."""
        if not self.shards.split:
            return super().step(closure)
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if params:
                self._update(group, params, [param.grad for param in params], [self.state[param] for param in params])
        return None

    def _update(self, group: Group, params: Tensors, grads: Tensors, kept: list[Kept]) -> None:
        eps1, eps2 = group["eps"]
        torch._foreach_add_(column(kept, "step"), 1.0)
        counts = [each["step"].item() for each in kept]
        rates = [min(group["lr"], 1.0 / math.sqrt(t)) for t in counts]
        scales = self._root_mean_squares(params, params).clamp(min=eps2)
        torch._foreach_mul_(params, 1.0 - group["lr"] * group["weight_decay"])
        updates = [
            grad / self._variance(param, grad, each, t ** group["beta2_decay"], eps1).clamp_(min=eps1 * eps1).sqrt_()
            for param, grad, each, t in zip(params, grads, kept, counts, strict=True)
        ]
        lengths = self._root_mean_squares(params, updates) / group["d"]
        factors = scales / lengths.clamp(min=1.0) * torch.tensor(rates, dtype=scales.dtype, device=scales.device)
        torch._foreach_mul_(updates, list(factors.unbind()))
        torch._foreach_sub_(params, updates)

    def _variance(self, param: torch.Tensor, grad: torch.Tensor, kept: Kept, share: float, eps1: float) -> torch.Tensor:
        squares = grad.square()
        if grad.ndim < 2:
            return kept["variance"].lerp_(squares, share).clone()
        rows, columns = kept["row_var"], kept["col_var"]
        rows.lerp_(self.shards.mean(param, squares, -1), share)
        columns.lerp_(self.shards.mean(param, squares, -2), share)
        return (rows @ columns).div_(self.shards.mean(param, rows, -2).clamp_(min=eps1))

    def _root_mean_squares(self, params: Tensors, tensors: Tensors) -> torch.Tensor:
        norms = self.shards.norms(params, tensors)
        sizes = [max(1, self.shards.owner(param).numel()) for param in params]
        return norms / torch.tensor(sizes, dtype=norms.dtype, device=norms.device).sqrt()


def _build(spec: Adafactor, groups: list[Group]) -> torch.optim.Optimizer:
    return AdafactorOptimizer(
        groups, lr=0.0, beta2_decay=spec.beta2_decay, eps=spec.eps, d=spec.clip_threshold, foreach=True
    )


def _start(spec: Adafactor, param: torch.Tensor, kind: str) -> Kept:
    shape = param.shape
    if len(shape) < 2:
        return {"step": start_step(), "variance": torch.zeros_like(param)}
    rows, columns = param.new_zeros(*shape[:-1], 1), param.new_zeros(*shape[:-2], 1, shape[-1])
    return {"step": start_step(), "row_var": rows, "col_var": columns}


_SLOTS = {"row_moment": "row_var", "column_moment": "col_var", "second_moment": "variance"}
ADAFACTOR = Rule(_build, _start, _SLOTS, means={"row_var": -1, "col_var": -2})
