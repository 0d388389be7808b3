"""Looks inside a flax model: inputs and outputs of all modules through `nnx.capture`, and settings of known layers."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest.mock import patch

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from flax import nnx

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
from crosstrain_jax import naming
from crosstrain_jax.collectives import read
from crosstrain_jax.host import to_canonical
from crosstrain_jax.layout import Layout
from crosstrain_jax.models.layers import BatchNorm, Dropout, GroupNorm, LayerNorm
from crosstrain_jax.objective import Batch, Program, Programs, Runtime, arrays
from crosstrain_jax.ops import JaxOps
from crosstrain_jax.state import JaxState


def probe_step(loss_fn: LossFn, runtime: Runtime, to_device: Callable[..., Batch]) -> Callable[..., Probe]:
    """See `Accelerator.probe_step`."""

    def compile_program(layouts: tuple[Layout, ...]) -> Program:
        # The gradients are those of the ordinary program; only the loss function is wrapped, so that what the model's
        # modules were given and returned comes back beside the loss, as metrics do.
        calls: dict[str, Any] = {}
        order: list[Event] = []

        def capturing(model: nnx.Module, batch: Batch, ops: JaxOps, *others: nnx.Module) -> Any:
            calls.clear()
            order.clear()
            with _recorded(model, order):
                outputs, found = nnx.capture(lambda m: loss_fn(m, batch, ops, *others), nnx.Intermediate)(model)
            calls.update(_flatten(found))
            return outputs

        program = Program(runtime, capturing, layouts, stacked=False)

        def probe(params: Any, buffers: Any, count: Any, batch: Batch, others: Any) -> Any:
            def objective(params: Any) -> Any:
                rows = runtime.rows(batch)
                result, _ = program.forward(params, buffers, batch, runtime.step_random(count, rows), others)
                loss, _ = program.sums(result, batch)
                return loss.sum / jax.lax.stop_gradient(loss.weight), dict(calls)

            (loss, found), grads = jax.value_and_grad(objective, has_aux=True)(params)
            return loss, found, grads

        compiled = runtime.in_scope(jax.jit(probe))
        program.run = lambda *inputs: (*compiled(*inputs), tuple(order))
        return program

    programs = Programs(compile_program)

    def run(state: JaxState, batch: Batch, *others: JaxState) -> Probe:
        program = programs.get(state, others)
        device_batch = to_device(batch)
        loss, calls, grads, order = program.run(state.params, state.buffers, state.count, device_batch, arrays(others))
        return Probe(
            loss=float(loss),
            activations={name: read(call.output) for name, call in calls.items() if call.output is not None},
            gradients=to_canonical(state.layout.params, grads),
            inputs={name: tuple(read(value) for value in call.inputs) for name, call in calls.items()},
            order=order,
        )

    return run


class _Call(NamedTuple):
    """One call of one module: the floating arrays it was given, and what it returned (of several, the first)."""

    inputs: tuple[jax.Array, ...]
    output: jax.Array | None


_CALLS = "calls"
_FLOAT64_EPS = float(np.finfo(np.float64).eps)


@contextlib.contextmanager
def _recorded(model: nnx.Module, order: list[Event]) -> Iterator[None]:
    """Lets every module of the model sow its calls, and notes the order in which they are traced.

    `nnx.capture` could do so for outputs, but not for inputs, nor for modules that inherit `__call__`.
    """
    paths = {id(module): ".".join(str(part) for part in path) for path, module in nnx.iter_modules(model)}
    classes = {base for _, module in nnx.iter_modules(model) for base in type(module).__mro__}
    running: list[int] = []
    seen_in = _trace()
    with contextlib.ExitStack() as stack:
        for each in classes:
            if "__call__" in vars(each) and issubclass(each, nnx.Module):
                wrapped = _recording(vars(each)["__call__"], paths, order, running, seen_in)
                stack.enter_context(patch.object(each, "__call__", wrapped))
        yield


def _trace() -> Any:
    """What is being traced now, to be compared."""
    return jax.extend.core.get_opaque_trace_state(convention="nnx")


def _recording(
    call: Callable[..., Any], paths: dict[int, str], order: list[Event], running: list[int], seen_in: Any
) -> Any:
    @functools.wraps(call)
    def recording(self: nnx.Module, *args: Any, **kwargs: Any) -> Any:
        if id(self) in running:  # `super().__call__`
            return call(self, *args, **kwargs)
        # A copy of a module inside a transform has no known path: its values are sown, its place in the order is not.
        path = paths.get(id(self))
        if path is not None and _trace() != seen_in:
            return call(self, *args, **kwargs)  # what `jax.lax.scan` runs of the model has values inside its loop only
        count = sum(event.kind == "input" and event.module.partition("#")[0] == path for event in order)
        name = f"{path}#{count}" if count else path
        if name is not None:
            order.append(Event("input", name))
        running.append(id(self))
        try:
            output = call(self, *args, **kwargs)
        finally:
            running.pop()
        first = output[0] if isinstance(output, tuple | list) and output else output
        inputs = tuple(value for value in (*args, *kwargs.values()) if _is_floating(value))
        if hasattr(self, "__captures__"):
            self.sow(nnx.Intermediate, _CALLS, _Call(inputs, first if _is_floating(first) else None))
        if name is not None:
            order.append(Event("output", name))
        return output

    return recording


def _is_floating(value: Any) -> bool:
    return isinstance(value, jax.Array) and bool(jnp.issubdtype(value.dtype, jnp.floating))


def _flatten(captured: Any) -> dict[str, _Call]:
    found: dict[str, _Call] = {}
    for path, variable in nnx.to_flat_state(captured):
        *prefix, kind = (str(part) for part in path)
        for index, call in enumerate(variable.get_value() if kind == _CALLS else ()):
            name = ".".join(prefix)
            found[f"{name}#{index}" if index else name] = call
    return found


def module_settings(model: nnx.Module) -> dict[str, ModuleSettings]:
    """See `Accelerator.module_settings`."""
    owners = {".".join(str(part) for part in path): module for path, module in nnx.iter_modules(model)}
    found = {path: _settings(owners[path]) for path in naming.definition_order(model) if path in owners}
    return {path: settings for path, settings in found.items() if settings is not None}


def _settings(module: nnx.Module) -> ModuleSettings | None:
    match module:
        case nnx.Linear() | nnx.LinearGeneral():
            return ModuleSettings(kind="linear", values={"bias": module.use_bias})
        case nnx.Conv():
            return ModuleSettings(kind="conv", values=_conv(module))
        case nnx.Embed():
            return ModuleSettings(kind="embedding")
        case nnx.Dropout():
            return ModuleSettings(
                kind="dropout", values=dropout_values(module.rate, counted=False, drops=_drops(module))
            )
        case Dropout():
            return ModuleSettings(kind="dropout", values=dropout_values(module.rate, counted=True))
        case nnx.MultiHeadAttention():
            drops = "elements, the same ones for the whole batch" if module.broadcast_dropout else ELEMENTS
            values = dropout_values(module.dropout_rate, counted=False, drops=drops)
            return ModuleSettings(kind="attention", values={"heads": module.num_heads, **values})
    return _norm(module)


def _drops(module: nnx.Dropout) -> str:
    """Channels stand first or last behind the batch; which dimensions share a mask is else said as flax counts them."""
    dims = tuple(sorted(module.broadcast_dims))
    count = len(dims)
    if not count:
        return ELEMENTS
    behind = [tuple(range(first, first + count)) for first in (1, 2, -count - 1, -count)]
    return dropped_channels(count) if dims in behind else f"one mask over the dimensions {dims}"


def _norm(module: nnx.Module) -> ModuleSettings | None:
    match module:
        case LayerNorm():
            return ModuleSettings(kind="layer_norm", values={"eps": module.eps})
        case nnx.LayerNorm():
            return ModuleSettings(kind="layer_norm", values={"eps": module.epsilon})
        case nnx.RMSNorm():
            eps = MACHINE_EPS if module.epsilon == _FLOAT64_EPS else module.epsilon
            return ModuleSettings(kind="rms_norm", values={"eps": eps})
        case GroupNorm():
            return ModuleSettings(kind="group_norm", values={"eps": module.eps, "groups": module.groups})
        case nnx.GroupNorm():
            return ModuleSettings(kind="group_norm", values={"eps": module.epsilon, "groups": module.num_groups})
        case nnx.InstanceNorm():
            return ModuleSettings(kind="instance_norm", values={"eps": module.epsilon, "running_statistics": False})
        case BatchNorm():
            return ModuleSettings(kind="batch_norm", values={"eps": module.eps, "momentum": module.momentum})
        case nnx.BatchNorm():
            momentum = round(1.0 - module.momentum, 12)  # flax counts the share of the old statistics
            return ModuleSettings(kind="batch_norm", values={"eps": module.epsilon, "momentum": momentum})
    if type(module).__name__ == "RMSNorm":
        return ModuleSettings(kind="rms_norm", values={"eps": getattr(module, "eps", MACHINE_EPS)})
    return None


def _conv(module: nnx.Conv) -> dict[str, Any]:
    kernel = tuple(module.kernel_size)
    stride, dilation = (_per_dimension(each, len(kernel)) for each in (module.strides, module.kernel_dilation))
    match module.padding:
        case "SAME":
            padding = same_padding(kernel, stride, dilation)
        case "CAUSAL":
            padding = (dilation[0] * (kernel[0] - 1), 0)
        case "VALID":
            padding = (0, 0) * len(kernel)
        case int() as width:
            padding = (width, width) * len(kernel)
        case "CIRCULAR" | "REFLECT":
            spans = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
            padding = tuple(p for span in spans for p in (span // 2, span - span // 2))
        case str() as name:
            padding = name
        case pairs:
            padding = tuple(p for pair in pairs for p in _pair(pair))
    return {
        "kernel": kernel,
        "stride": stride,
        "padding": padding,
        "padding_mode": module.padding.lower() if module.padding in ("CIRCULAR", "REFLECT") else "zeros",
        "dilation": dilation,
        "groups": module.feature_group_count,
        "bias": module.use_bias,
    }


def _per_dimension(value: Any, size: int) -> tuple[int, ...]:
    return (value or 1,) * size if value is None or isinstance(value, int) else tuple(value)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def change_setting(model: nnx.Module, path: str, name: str, value: Any) -> bool:
    """See `Accelerator.change_setting`."""
    owners = {".".join(str(part) for part in each): module for each, module in nnx.iter_modules(model)}
    module = owners[path]
    match module, name:
        case nnx.RMSNorm(), "eps" if value == MACHINE_EPS:
            module.epsilon = _FLOAT64_EPS  # of the type in which causes are looked for
        case (_, "eps") if hasattr(module, "epsilon"):  # flax's norms
            module.epsilon = value
        case nnx.BatchNorm(), "momentum":
            module.momentum = 1.0 - value
        case nnx.Conv(), "padding" if not isinstance(value, str):
            module.padding = tuple(zip(value[::2], value[1::2], strict=True))
        case nnx.Conv(), "stride":
            module.strides = value
        case nnx.Dropout(), "rate":
            module.rate = value
        case nnx.MultiHeadAttention(), "rate":
            module.dropout_rate = value
        case (_, "eps" | "momentum" | "rate") if hasattr(module, name):
            setattr(module, name, value)
        case _:
            return False
    return True
