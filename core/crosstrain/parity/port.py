"""A user's port: two native models and what they are trained with, read from one Python file.

The file defines, at its top level:

    def torch_model(): ...                      # a torch.nn.Module
    def jax_model(): ...                        # a flax.nnx.Module
    def torch_loss(model, batch, ops): ...      # as for Accelerator.train_step; or one `loss_fn` for both
    def jax_loss(model, batch, ops): ...
    def batches(step): ...                      # dict of NumPy arrays, a pure function of the step
    optimizer = ct.adamw(1e-3)
    hints = {}                                  # optional: torch parameter -> flax parameter, canonical names
    total_steps = 1000                          # optional: length of the run, for the schedule
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from crosstrain.accelerator import Accelerator
from crosstrain.data.sources import Arrays
from crosstrain.errors import ConfigError, require_count
from crosstrain.optim import OptimizerSpec
from crosstrain.parity.constants import constant_buffers, left_out
from crosstrain.parity.matching import BUFFER, Matching, Parameter, match
from crosstrain.parity.side import Side
from crosstrain.scripts import load_script
from crosstrain.step import LossFn


@dataclass(frozen=True, kw_only=True, slots=True)
class Port:
    """Two native models that should be the same. See the module for the meaning of the fields."""

    torch_model: Callable[[], Any]
    jax_model: Callable[[], Any]
    torch_loss: LossFn
    jax_loss: LossFn
    batches: Callable[[int], Arrays]
    optimizer: OptimizerSpec
    hints: Mapping[str, str] = field(default_factory=dict)
    total_steps: int = 100

    def sides(self) -> tuple[Side, Side, Matching]:
        """The torch side (the reference), the JAX side in the torch side's names, and how they were matched.

        Buffers that no training step changes need no partner.

        Raises:
            ConfigError: a hint names a parameter that is not there, or one of another shape.
        """
        torch = Side(
            backend="torch",
            model=lambda _: self.torch_model(),
            loss_fn=self.torch_loss,
            optimizer=self.optimizer,
            batches=self.batches,
        )
        jax = replace(torch, backend="jax", model=lambda _: self.jax_model(), loss_fn=self.jax_loss)
        mine, theirs = _parameters(torch), _parameters(jax)
        matching = match(mine, theirs, self.hints)
        if any(each.role == BUFFER for each in (*mine, *theirs)):
            own = left_out(matching, constant_buffers(torch), constant_buffers(jax), self.hints)
            torch, jax = (replace(side, constants=names) for side, names in zip((torch, jax), own, strict=True))
            mine, theirs = (
                [p for p in each if p.name not in out] for each, out in zip((mine, theirs), own, strict=True)
            )
            matching = match(mine, theirs, self.hints)
        return torch, replace(jax, names=matching.names_of_other()), matching


def load_port(path: Path) -> Port:
    """Runs a file and reads the port it defines.

    Raises:
        ConfigError: the file is missing, or does not define what it has to, in its kind.
    """
    module = load_script(path, "the port")
    shared_loss = getattr(module, "loss_fn", None)
    found = {
        "torch_loss": getattr(module, "torch_loss", shared_loss),
        "jax_loss": getattr(module, "jax_loss", shared_loss),
        **{name: getattr(module, name, None) for name in ("torch_model", "jax_model", "batches", "optimizer")},
    }
    missing = [name for name, value in found.items() if value is None]
    if missing:
        raise ConfigError(
            f"{path.name} must define {', '.join(found)}, got a file without {', '.join(missing)}. "
            "See `help(crosstrain.parity.port)` for a template."
        )
    if not isinstance(found["optimizer"], OptimizerSpec):
        kind = type(found["optimizer"]).__name__
        raise ConfigError(f"optimizer must be an OptimizerSpec, got {kind}. Use ct.sgd, ct.adam or ct.adamw.")
    options = {name: getattr(module, name) for name in ("hints", "total_steps") if hasattr(module, name)}
    for name, value in found.items():
        # A model can be called too, so that one that was made already would be taken for what makes it.
        makes = inspect.isroutine(value) or inspect.isclass(value) or isinstance(value, functools.partial)
        if name != "optimizer" and not (makes or (callable(value) and not name.endswith("model"))):
            kind = type(value).__name__
            raise ConfigError(f"{name} must be a function, got a {kind}. Write: def {name}(...): return ...")
    require_count("total_steps", options.get("total_steps", 1))
    if not isinstance(options.get("hints", {}), Mapping):
        kind = type(options["hints"]).__name__
        raise ConfigError(f"hints must be a dict of torch parameter -> flax parameter, got a {kind}.")
    return Port(**{**found, **options})


def _parameters(side: Side) -> list[Parameter]:
    """Parameters and buffers in the order in which their modules were defined, a weight before its bias."""
    accelerator = Accelerator(side.backend)
    model = side.model(accelerator)
    order = accelerator.definition_order(model)
    state = accelerator.prepare(model)
    roles: dict[str, str] = dict(state.parameter_roles)
    shapes = dict(state.parameter_shapes)
    for name, values in state.snapshot().buffers.items():
        shapes[name], roles[name] = values.shape, BUFFER
    kinds = {"weight": 0, "kernel": 0, "scale": 0, "gamma": 0, "bias": 1, "beta": 1}

    def position(name: str) -> tuple[int, int, int, str]:
        owner, _, last = name.rpartition(".")
        places = [order.index(each) if each in order else len(order) for each in (owner, name)]
        return places[0], kinds.get(last, 2), places[1], last

    return [Parameter(name, shapes[name], roles[name]) for name in sorted(shapes, key=position)]
