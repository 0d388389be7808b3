"""Looks inside a torch model: inputs and outputs of all modules through hooks, and the settings of known layers."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from crosstrain.probe import (
    ELEMENTS,
    MACHINE_EPS,
    Event,
    ModuleSettings,
    Probe,
    dropout_values,
    dropped_channels,
    same_padding,
)
from crosstrain.step import LossFn
from crosstrain_torch import naming
from crosstrain_torch.collectives import all_gather
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
        device_batch = to_device(batch)
        with _recorded(state.model) as calls:
            loss = gradient(state, device_batch, others)["loss"]
        calls.take_from_all(len(next(iter(device_batch.values()))), runtime)
        gradients = state.take_gradients().to_host()
        with torch.no_grad():
            for name, buffer in naming.buffers(state.model).items():
                buffer.copy_(kept[name])
        return Probe(
            loss=float(loss.sum / loss.weight),
            activations=calls.outputs,
            gradients=gradients,
            inputs=calls.inputs,
            order=tuple(calls.order),
        )

    return run


class _Calls:
    """What modules were called with and what they returned, in the order of execution."""

    def __init__(self) -> None:
        self.inputs: dict[str, tuple[np.ndarray, ...]] = {}
        self.outputs: dict[str, np.ndarray] = {}
        self.order: list[Event] = []
        self._open: list[str] = []

    def enter(self, path: str, values: Sequence[Any]) -> None:
        """Copies the inputs, which a module may overwrite."""
        calls = sum(event.kind == "input" and event.module.partition("#")[0] == path for event in self.order)
        name = f"{path}#{calls}" if calls else path
        self._open.append(name)
        self.inputs[name] = tuple(to_numpy(value) for value in values if _is_floating(value))
        self.order.append(Event("input", name))

    def leave(self, output: Any) -> None:
        """Copies the output; of several, the first."""
        name = self._open.pop()
        first = output[0] if isinstance(output, tuple | list) and output else output
        if _is_floating(first):
            self.outputs[name] = to_numpy(first)
            self.order.append(Event("output", name))

    def take_from_all(self, examples: int, runtime: Runtime) -> None:
        """Puts the rows of all processes in place of this one's; what has no row for each example stays as it is.

        Args:
            examples: of this process.
            runtime: says which processes see others.
        """
        group = runtime.mesh.batch
        if group is None:
            return
        found = {(name, -1): values for name, values in self.outputs.items()}
        found |= {(name, index): values for name, given in self.inputs.items() for index, values in enumerate(given)}
        shapes = {key: values.shape for key, values in found.items()}
        everywhere: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(everywhere, shapes, group=group)
        for key in sorted(shapes):
            shape = shapes[key]
            # Processes agree on what follows: experts, for one, are given another number of rows on each.
            if shape and shape[0] % examples == 0 and all(each.get(key) == shape for each in everywhere):
                found[key] = all_gather(found[key], group, runtime.device)
        self.outputs = {name: found[name, -1] for name in self.outputs}
        self.inputs = {name: tuple(found[name, i] for i in range(len(given))) for name, given in self.inputs.items()}


@contextlib.contextmanager
def _recorded(model: nn.Module) -> Iterator[_Calls]:
    calls, handles = _Calls(), []
    for path, module in model.named_modules():

        def enter(_: nn.Module, args: Any, kwargs: dict[str, Any], path: str = path) -> None:
            calls.enter(path, [*args, *kwargs.values()])

        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(lambda _, __, output: calls.leave(output)))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _is_floating(value: Any) -> bool:
    return torch.is_tensor(value) and value.is_floating_point()


def module_settings(model: nn.Module) -> dict[str, ModuleSettings]:
    """See `Accelerator.module_settings`."""
    found = {path: _settings(module) for path, module in model.named_modules()}
    return {path: settings for path, settings in found.items() if settings is not None}


def _settings(module: nn.Module) -> ModuleSettings | None:
    match module:
        case nn.Linear():
            return ModuleSettings(kind="linear", values={"bias": module.bias is not None})
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            match module.padding:
                case "same":
                    padding = same_padding(module.kernel_size, module.stride, module.dilation)
                case "valid":
                    padding = (0, 0) * len(module.kernel_size)
                case widths:
                    padding = tuple(width for width in widths for _ in range(2))
            values = {
                "kernel": module.kernel_size,
                "stride": module.stride,
                "padding": padding,
                "padding_mode": module.padding_mode,
                "dilation": module.dilation,
                "groups": module.groups,
                "bias": module.bias is not None,
            }
            return ModuleSettings(kind="conv", values=values)
        case nn.Embedding():
            return ModuleSettings(kind="embedding")
        case _DropoutNd():
            return ModuleSettings(kind="dropout", values=dropout_values(module.p, counted=False, drops=_drops(module)))
        case Dropout():
            return ModuleSettings(kind="dropout", values=dropout_values(module.rate, counted=True))
        case nn.MultiheadAttention():
            values = dropout_values(module.dropout, counted=False)
            return ModuleSettings(kind="attention", values={"heads": module.num_heads, **values})
    return _norm(module)


def _drops(module: _DropoutNd) -> str:
    match module:
        case nn.Dropout1d():
            return dropped_channels(1)
        case nn.Dropout2d():
            return dropped_channels(2)
        case nn.Dropout3d():
            return dropped_channels(3)
        case nn.AlphaDropout() | nn.FeatureAlphaDropout():
            return f"another value put in ({type(module).__name__})"
    return ELEMENTS


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
        return ModuleSettings(kind="rms_norm", values={"eps": getattr(module, "eps", None) or MACHINE_EPS})
    return None


def change_setting(model: nn.Module, path: str, name: str, value: Any) -> bool:
    """See `Accelerator.change_setting`."""
    module = model.get_submodule(path)
    match module, name:
        case _, "eps" if value == MACHINE_EPS:
            module.eps = None
        case _DropoutNd(), "rate":
            module.p = value
        case nn.MultiheadAttention(), "rate":
            module.dropout = value
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
