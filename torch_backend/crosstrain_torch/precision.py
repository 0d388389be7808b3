"""Dtypes of the torch engine: how parameters and batches are cast for one forward pass."""

import contextlib
from collections.abc import Container, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from crosstrain.data.loader import WEIGHT
from crosstrain.precision import Precision

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


def param_dtype(precision: Precision) -> torch.dtype:
    """Type of weights and moments."""
    return DTYPES[precision.param_dtype]


def casts(precision: Precision) -> bool:
    """Whether weights are cast for the forward pass."""
    return precision.casting == "cast" and precision.compute_dtype != precision.param_dtype


def wide_dtype(values: torch.Tensor) -> torch.dtype:
    """The type of statistics over `values`: float32, or theirs where it is wider."""
    return torch.promote_types(values.dtype, torch.float32)


def compute_params(
    model: nn.Module,
    precision: Precision,
    prefix: str,
    replaced: Mapping[int, torch.Tensor] | None = None,
    skip: Container[nn.Parameter] = (),
    seen: set[nn.Module] | None = None,
) -> dict[str, torch.Tensor]:
    """The model's parameters as the forward pass takes them, by `prefix` + name; gradients flow back to the originals.

    torch's own BatchNorm keeps the type of its parameters: its CPU kernel wants them in that of its statistics.

    Args:
        model: whose parameters.
        precision: they are cast to its compute type.
        prefix: of every name.
        replaced: id of a parameter -> what stands in for it, such as an average.
        skip: parameters that are left out: FSDP casts what it gathers.
        seen: modules that are left out, and to which those of the model come: of a module with two names
            `functional_call` puts back what the first name had been given.
    """
    found: dict[str, torch.Tensor] = {}
    for module_name, module in model.named_modules(seen):
        keeps = not casts(precision) or isinstance(module, _BatchNorm)
        for name, param in module.named_parameters(recurse=False, remove_duplicate=False):
            if param in skip:
                continue
            value = (replaced or {}).get(id(param), param)
            if not keeps and value.is_floating_point():
                value = value.to(DTYPES[precision.compute_dtype])
            found[f"{prefix}{module_name + '.' if module_name else ''}{name}"] = value
    return found


def compute_batch(batch: Mapping[str, torch.Tensor], precision: Precision) -> dict[str, torch.Tensor]:
    """The batch with its floating fields in the compute type; the weights of examples stay as they are."""
    dtype = DTYPES[precision.compute_dtype]
    return {
        name: values.to(dtype) if values.is_floating_point() and name != WEIGHT else values
        for name, values in batch.items()
    }


def forward_scope(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast where the precision asks for it; full float32 in convolutions, where cuDNN would take TF32."""
    scopes: list[AbstractContextManager[Any]] = []
    if precision.casting == "autocast":
        scopes.append(torch.autocast(device.type, DTYPES[precision.compute_dtype]))
    if device.type == "cuda":
        scopes.append(torch.backends.cudnn.flags(allow_tf32=False))
    if not scopes:
        return contextlib.nullcontext()
    stack = contextlib.ExitStack()
    for scope in scopes:
        stack.enter_context(scope)
    return stack
