"""Looks inside a flax model: outputs of all modules through `nnx.capture`, and the settings of known layers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from crosstrain.probe import ModuleSettings, Probe
from crosstrain.step import LossFn
from crosstrain_jax import naming
from crosstrain_jax.host import to_canonical
from crosstrain_jax.models.layers import BatchNorm, Dropout, GroupNorm, LayerNorm
from crosstrain_jax.objective import Batch, Program, Programs, Runtime, arrays
from crosstrain_jax.ops import JaxOps
from crosstrain_jax.precision import to_host
from crosstrain_jax.state import JaxState, Layout


def probe_step(loss_fn: LossFn, runtime: Runtime, to_device: Callable[..., Batch]) -> Callable[..., Probe]:
    """See `Accelerator.probe_step`."""

    def compile_program(layouts: tuple[Layout, ...]) -> Program:
        # The gradients are those of the ordinary program; only the loss function is wrapped, so that the outputs of the
        # model's modules come back beside the loss, as metrics do.
        captured: dict[str, Any] = {}

        def capturing(model: nnx.Module, batch: Batch, ops: JaxOps, *others: nnx.Module) -> Any:
            outputs, found = nnx.capture(
                lambda m: loss_fn(m, batch, ops, *others), nnx.Intermediate, method_outputs=nnx.Intermediate
            )(model)
            captured.clear()
            captured.update(_flatten(found))
            return outputs

        program = Program(runtime, capturing, layouts)

        def probe(params: Any, buffers: Any, count: Any, batch: Batch, others: Any) -> Any:
            def objective(params: Any) -> Any:
                rows = jnp.arange(len(next(iter(batch.values()))), dtype=jnp.uint32)
                result, _ = program.forward(params, buffers, batch, runtime.step_random(count, rows), others)
                loss, _ = program.table(result, batch)
                return loss.sum / loss.weight, dict(captured)

            (loss, activations), grads = jax.value_and_grad(objective, has_aux=True)(params)
            return loss, activations, grads

        program.run = runtime.in_scope(jax.jit(probe))
        return program

    programs = Programs(compile_program)

    def run(state: JaxState, batch: Batch, *others: JaxState) -> Probe:
        program = programs.get(state, others)
        loss, activations, grads = program.run(
            state.params, state.buffers, state.count, to_device(batch), arrays(others)
        )
        found = {name: to_host(values) for name, values in activations.items()}
        return Probe(loss=float(loss), activations=found, gradients=to_canonical(state.layout.params, grads))

    return run


def _flatten(captured: Any) -> dict[str, jax.Array]:
    found: dict[str, jax.Array] = {}
    for path, variable in nnx.to_flat_state(captured):
        *prefix, method = (str(part) for part in path)
        name = ".".join(prefix if method == "__call__" else [*prefix, method])
        for call, values in enumerate(variable.get_value()):
            if isinstance(values, jax.Array) and jnp.issubdtype(values.dtype, jnp.floating):
                found[f"{name}#{call}" if call else name] = values
    return found


def module_settings(model: nnx.Module) -> dict[str, ModuleSettings]:
    """See `Accelerator.module_settings`."""
    owners = {".".join(str(part) for part in path): module for path, module in nnx.iter_modules(model)}
    found = {path: _settings(owners[path]) for path in naming.definition_order(model)}
    return {path: settings for path, settings in found.items() if settings is not None}


def _settings(module: nnx.Module) -> ModuleSettings | None:
    match module:
        case nnx.Linear() | nnx.LinearGeneral():
            return ModuleSettings(kind="linear", values={"bias": module.use_bias})
        case nnx.Conv():
            return ModuleSettings(kind="conv", values=_conv(module))
        case nnx.Embed():
            return ModuleSettings(kind="embedding")
        case nnx.Dropout() | Dropout():
            return ModuleSettings(kind="dropout", values={"rate": module.rate})
    return _norm(module)


def _norm(module: nnx.Module) -> ModuleSettings | None:
    match module:
        case LayerNorm():
            return ModuleSettings(kind="layer_norm", values={"eps": module.eps})
        case nnx.LayerNorm():
            return ModuleSettings(kind="layer_norm", values={"eps": module.epsilon})
        case nnx.RMSNorm():
            return ModuleSettings(kind="rms_norm", values={"eps": module.epsilon})
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
        return ModuleSettings(kind="rms_norm", values={"eps": getattr(module, "eps", "machine")})
    return None


def _conv(module: nnx.Conv) -> dict[str, Any]:
    size = len(module.kernel_size)
    padding = module.padding
    if padding == "VALID":
        padding = 0
    if isinstance(padding, int):
        padding = ((padding, padding),) * size
    return {
        "kernel": tuple(module.kernel_size),
        "stride": _per_dimension(module.strides, size),
        "padding": padding if isinstance(padding, str) else tuple(p for pair in padding for p in _pair(pair)),
        "dilation": _per_dimension(module.kernel_dilation, size),
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
        case (_, "eps" | "momentum" | "rate") if hasattr(module, name):
            setattr(module, name, value)
        case _:
            return False
    return True
