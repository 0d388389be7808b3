"""Bugs in the code of a model, planted in a live torch module: each function changes one forward or backward pass."""

import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from crosstrain_torch.models.gpt import rotate

Module = Any
Patch = Callable[[Module], None]


def forward(path: str, function: Callable[..., Any]) -> Patch:
    """Replaces the forward pass of one submodule by `function(module, original, *inputs)`."""

    def apply(model: Module) -> None:
        module = model.get_submodule(path)
        original = module.forward
        module.forward = types.MethodType(lambda self, *inputs: function(self, original, *inputs), module)

    return apply


def attribute(path: str, **values: Any) -> Patch:
    """Sets attributes of one submodule."""

    def apply(model: Module) -> None:
        for name, value in values.items():
            setattr(model.get_submodule(path), name, value)

    return apply


class _Table(torch.nn.Module):
    """An embedding that is not torch's, so that its table passes for an ordinary matrix."""

    def __init__(self, weight: torch.nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return F.embedding(tokens, self.weight)


def unknown_embedding(model: Module) -> None:
    model.tok_embeddings = _Table(model.tok_embeddings.weight)


def transposed(module: Module, _: Any, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, module.weight.T, module.bias)


def without_bias(module: Module, _: Any, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, module.weight)


def identity(_: Module, __: Any, x: torch.Tensor, *rest: Any) -> torch.Tensor:
    return x


def scaled(factor: float) -> Callable[..., Any]:
    return lambda _, original, *inputs: original(*inputs) * factor


def detached_input(_: Module, original: Any, x: torch.Tensor, *rest: Any) -> torch.Tensor:
    return original(x.detach(), *rest)


def detached(_: Module, original: Any, *inputs: Any) -> torch.Tensor:
    return original(*inputs).detach()


def rounded_gradient(_: Module, original: Any, x: torch.Tensor, *rest: Any) -> torch.Tensor:
    y = original(x, *rest)
    if y.requires_grad:
        y.register_hook(lambda grad: grad.float().to(grad.dtype))
    return y


def scaled_gradient(factor: float) -> Callable[..., Any]:
    def run(_: Module, original: Any, *inputs: Any) -> torch.Tensor:
        y = original(*inputs)
        return y * factor - (y * (factor - 1.0)).detach()

    return run


def attention(*, scale: float | None = None, shift: int = 0, halves: bool = False) -> Callable[..., Any]:
    """Causal attention with another scale, a mask that is off by `shift`, or RoPE on halves."""

    def turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        if not halves:
            return rotate(x, cos, sin)
        a, b = x.chunk(2, dim=-1)
        cos, sin = cos[:, None, :], sin[:, None, :]
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)

    def run(module: Module, _: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, __: Any) -> torch.Tensor:
        c = module.config
        q = turn(module.wq(x).unflatten(-1, (c.n_heads, c.head_dim)), cos, sin).transpose(1, 2)
        k = turn(module.wk(x).unflatten(-1, (c.kv_heads, c.head_dim)), cos, sin).transpose(1, 2)
        v = module.wv(x).unflatten(-1, (c.kv_heads, c.head_dim)).transpose(1, 2)
        length = x.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool).tril(shift)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)
        return module.wo(out.transpose(1, 2).flatten(-2))

    return run


def gelu_in_swiglu(module: Module, _: Any, x: torch.Tensor) -> torch.Tensor:
    return module.w2(F.gelu(module.w1(x)) * module.w3(x))


def swapped_gates(module: Module, _: Any, x: torch.Tensor) -> torch.Tensor:
    return module.w2(module.w1(x) * F.silu(module.w3(x)))


def without_residual(
    module: Module, _: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, segments: Any
) -> torch.Tensor:
    x = module.attention(module.attention_norm(x), cos, sin, segments)
    return x + module.feed_forward(module.ffn_norm(x))


def scale_before_cast(module: Module, _: Any, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], module.weight, None, module.eps)


def biased_running_variance(module: Module, original: Any, x: torch.Tensor) -> torch.Tensor:
    old = module.running_var.clone()
    y = original(x)
    n = x.numel() / x.shape[1]
    with torch.no_grad():
        new = (module.running_var - (1 - module.momentum) * old) / module.momentum
        module.running_var = (1 - module.momentum) * old + module.momentum * new * (n - 1) / n
    return y


def running_statistics(module: Module, _: Any, x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, module.running_mean, module.running_var, module.weight, module.bias, False, 0.0, module.eps)


def average_pool(module: Module, _: Any, x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(F.relu(module.norm(module.conv(x))), 2)


def leaky(module: Module, _: Any, x: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(module.norm(module.conv(x)), 0.01)


def transposed_image(_: Module, original: Any, x: torch.Tensor) -> torch.Tensor:
    return original(x.transpose(1, 2))
