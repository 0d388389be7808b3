"""Looks inside a torch model: outputs of all modules through forward hooks, and the settings of known layers."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from crosstrain.probe import ModuleSettings, Probe
from crosstrain.step import LossFn
from crosstrain_torch import naming
from crosstrain_torch.host import to_numpy
from crosstrain_torch.models.layers import BatchNorm, Dropout, GroupNorm, LayerNorm
from crosstrain_torch.objective import Batch
from crosstrain_torch.state import TorchState
from crosstrain_torch.step import Gradient, Runtime


def probe_step(loss_fn: LossFn, runtime: Runtime, to_device: Callable[..., Batch]) -> Callable[..., Probe]:
    """See `Accelerator.probe_step`."""
    gradient = Gradient(loss_fn, runtime)

    def run(state: TorchState, batch: Batch, *others: TorchState) -> Probe:
        kept = {name: buffer.clone() for name, buffer in naming.buffers(state.model).items()}
        with _outputs(state.model) as activations:
            loss = gradient(state, to_device(batch), others)["loss"]
        gradients = state.take_gradients().to_host()
        with torch.no_grad():
            for name, buffer in naming.buffers(state.model).items():
                buffer.copy_(kept[name])
        return Probe(loss=float(loss.sum / loss.weight), activations=activations, gradients=gradients)

    return run


@contextlib.contextmanager
def _outputs(model: nn.Module) -> Iterator[dict[str, np.ndarray]]:
    found: dict[str, np.ndarray] = {}

    def hook(path: str) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if torch.is_tensor(output) and output.is_floating_point():
                calls = sum(name.partition("#")[0] == path for name in found)
                found[f"{path}#{calls}" if calls else path] = to_numpy(output)

        return keep

    handles = [module.register_forward_hook(hook(path)) for path, module in model.named_modules()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def module_settings(model: nn.Module) -> dict[str, ModuleSettings]:
    """See `Accelerator.module_settings`."""
    found = {path: _settings(module) for path, module in model.named_modules()}
    return {path: settings for path, settings in found.items() if settings is not None}


def _settings(module: nn.Module) -> ModuleSettings | None:
    match module:
        case nn.Linear():
            return ModuleSettings(kind="linear", values={"bias": module.bias is not None})
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            padding = module.padding
            if padding == "valid":
                padding = (0,) * len(module.kernel_size)
            values = {
                "kernel": module.kernel_size,
                "stride": module.stride,
                "padding": padding.upper() if isinstance(padding, str) else tuple(p for p in padding for _ in range(2)),
                "dilation": module.dilation,
                "groups": module.groups,
                "bias": module.bias is not None,
            }
            return ModuleSettings(kind="conv", values=values)
        case nn.Embedding():
            return ModuleSettings(kind="embedding")
        case nn.Dropout():
            return ModuleSettings(kind="dropout", values={"rate": module.p})
        case Dropout():
            return ModuleSettings(kind="dropout", values={"rate": module.rate})
    return _norm(module)


def _norm(module: nn.Module) -> ModuleSettings | None:
    match module:
        case LayerNorm() | nn.LayerNorm():
            return ModuleSettings(kind="layer_norm", values={"eps": module.eps})
        case GroupNorm():
            return ModuleSettings(kind="group_norm", values={"eps": module.eps, "groups": module.groups})
        case nn.GroupNorm():
            return ModuleSettings(kind="group_norm", values={"eps": module.eps, "groups": module.num_groups})
        case _InstanceNorm():
            values = {"eps": module.eps, "running_statistics": module.track_running_stats}
            return ModuleSettings(kind="instance_norm", values=values)
        case BatchNorm() | _BatchNorm():
            return ModuleSettings(kind="batch_norm", values={"eps": module.eps, "momentum": module.momentum})
    if isinstance(module, nn.RMSNorm) or type(module).__name__ == "RMSNorm":
        return ModuleSettings(kind="rms_norm", values={"eps": getattr(module, "eps", None) or "machine"})
    return None


def change_setting(model: nn.Module, path: str, name: str, value: Any) -> bool:
    """See `Accelerator.change_setting`."""
    module = model.get_submodule(path)
    match module, name:
        case nn.Dropout(), "rate":
            module.p = value
        case ((nn.Conv1d() | nn.Conv2d() | nn.Conv3d()), "padding") if not isinstance(value, str):
            if value[::2] != value[1::2]:
                return False
            module.padding = value[::2]
        case ((nn.Conv1d() | nn.Conv2d() | nn.Conv3d()), "stride"):
            module.stride = value
        case (_, "eps" | "momentum" | "rate") if hasattr(module, name):
            setattr(module, name, value)
        case _:
            return False
    return True
