"""Muon, with AdamW for what is no matrix; see `crosstrain.optim.Muon`. `torch.optim.Muon` computes in bfloat16."""

import torch

from crosstrain.optim import Muon, Role
from crosstrain.optim.muon import NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS
from crosstrain_torch.optim import adam
from crosstrain_torch.optim.base import Foreach, Group, Kept, Rule, Tensors, column, decay_and_add
from crosstrain_torch.shards import part, whole, wrap

_MATRIX, _STACK, _OTHER = "matrix", "stack", "other"


class MuonOptimizer(Foreach):
    """The update; groups carry `kind` and `momentum`."""

    def __init__(self, groups: list[Group], spec: Muon) -> None:
        super().__init__(groups, momentum=spec.momentum_at(0))
        self._spec = spec

    def update(self, group: Group, params: Tensors, grads: Tensors, kept: list[Kept]) -> None:
        """See `Foreach`."""
        spec = self._spec
        if group["kind"] != _OTHER:
            directions, scale = self._orthogonalised(group, params, grads, column(kept, "momentum")), 1.0
        else:
            betas, eps = adam.betas_of(spec.fallback), spec.fallback.eps
            directions, scale = adam.directions_of(grads, kept, betas, eps), spec.fallback_scale
        decay_and_add(group, params, directions, group["lr"] * scale)

    def _orthogonalised(self, group: Group, params: Tensors, grads: Tensors, momenta: Tensors) -> Tensors:
        momentum, stacked = group["momentum"], group["kind"] == _STACK
        torch._foreach_mul_(momenta, momentum)
        torch._foreach_add_(momenta, grads)
        if self._spec.nesterov:
            momenta = list(torch._foreach_add(grads, momenta, alpha=momentum))
        owners = [self.shards.owner(param) for param in params]
        return [
            part(_orthogonal(whole(wrap(u, owner)), self._spec.eps, stacked), owner)
            for u, owner in zip(momenta, owners, strict=True)
        ]


def _orthogonal(u: torch.Tensor, eps: float, stacked: bool) -> torch.Tensor:
    """sqrt(max(1, out / in)) orthogonal(u), in the shape of `u`."""
    if stacked:
        return torch.stack([_of_matrix(matrix, eps) for matrix in u]).to(u.dtype)
    return _of_matrix(u.reshape(len(u), -1), eps).reshape(u.shape).to(u.dtype)


def _of_matrix(matrix: torch.Tensor, eps: float) -> torch.Tensor:
    rows, columns = matrix.shape
    x = newton_schulz(matrix.T, eps).T if rows > columns else newton_schulz(matrix, eps)
    return max(1.0, rows / columns) ** 0.5 * x


def newton_schulz(u: torch.Tensor, eps: float) -> torch.Tensor:
    """The iteration over a matrix with no more rows than columns, in float32 or wider."""
    a, b, c = NEWTON_SCHULZ
    x = u.to(torch.promote_types(u.dtype, torch.float32))
    x = x / (torch.linalg.matrix_norm(x) + eps)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x


def _build(spec: Muon, groups: list[Group]) -> torch.optim.Optimizer:
    return MuonOptimizer(groups, spec)


def _kind(spec: Muon, role: Role, dimensions: int) -> str:
    if not spec.is_matrix(role, dimensions):
        return _OTHER
    return _STACK if role == "experts" else _MATRIX


def _start(spec: Muon, param: torch.Tensor, kind: str) -> Kept:
    return {"momentum": torch.zeros_like(param)} if kind != _OTHER else adam.start(spec.fallback, param, kind)


def _set_momentum(group: Group, momentum: float) -> None:
    group["momentum"] = momentum


MUON = Rule(_build, _start, {"momentum": "momentum", **adam.MOMENTS}, _set_momentum, _kind)
