"""`crosstrain estimate-memory`: the command line."""

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
import yaml

from crosstrain import backends, optim
from crosstrain.errors import ConfigError
from crosstrain.models.presets import PRESETS
from crosstrain.models.spec import ModelConfig
from crosstrain.optim import OptimizerSpec
from crosstrain.planning.command import parse_mesh
from crosstrain.planning.estimate import estimate
from crosstrain.planning.job import Setup, load_job
from crosstrain.precision import Precision
from crosstrain.terminal import plain_console

OPTIMIZERS = ("adafactor", "adagrad", "adam", "adamw", "lamb", "lion", "muon", "nadam", "radam", "rmsprop", "sgd")
"""Functions of `crosstrain.optim`."""


def estimate_memory(
    model: str,
    /,
    config: tuple[str, ...] = (),
    optimizer: str | None = None,
    momentum: float | None = None,
    average: tyro.conf.FlagCreatePairsOff[bool] = False,
    precision: str | None = None,
    mesh: str = "data=1",
    backend: str | None = None,
    shardings: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> int:
    """Says what a training state holds, to the byte: parameters, gradients, optimizer state, average.

    Args:
        model: mlp, resnet9, gpt or llama3-8b; or a Python file as for crosstrain plan, whose loss and batch are not
            looked at here.
        config: settings of the model, such as dim=512 n_layers=8 hidden=[64,64].
        optimizer: adafactor, adagrad, adam, adamw, lamb, lion, muon, nadam, radam, rmsprop or sgd; by default the
            file's, or adamw.
        momentum: of sgd, rmsprop or muon; the first two keep one only when it is above 0.
        average: an average of the weights is kept, also where the file names none.
        precision: fp64, fp32, bf16, bf16-autocast, or bf16-pure, whose weights and moments are bfloat16, too; by
            default the file's, or fp32.
        mesh: sizes of the mesh axes, such as fsdp=64,tensor=4; data is 1 where it is not given.
        backend: the engine; by default the one that is installed.
        shardings: print where every parameter lies, too.
    """
    backend = backends.name_of(backend)
    setup = _setup(model, config, backend)
    if optimizer is not None or momentum is not None:
        setup = dataclasses.replace(setup, optimizer=_optimizer(setup.optimizer, optimizer, momentum))
    if average:
        setup = dataclasses.replace(setup, average=optim.ema(0.999))
    if precision is not None:
        setup = dataclasses.replace(setup, precision=Precision.parse(precision))
    found = estimate(setup, backend, parse_mesh(mesh))
    console = plain_console()
    if shardings:
        each = found.whole.parameters / found.plan.size
        console.print(found.plan.table(bytes_per_element=each), highlight=False, soft_wrap=True)
    console.print(found.table(), highlight=False, soft_wrap=True)
    return 0


def _setup(model: str, config: Sequence[str], backend: str) -> Setup:
    """What the first argument names.

    Raises:
        ConfigError: neither a preset nor a file; settings for a file.
    """
    if model in PRESETS:
        return Setup(model=_with_settings(PRESETS[model], config), optimizer=optim.adamw(1e-3))
    if Path(model).suffix != ".py":
        near = difflib.get_close_matches(model, PRESETS, n=1)
        advice = f"Did you mean {near[0]}?" if near else "Use for example gpt."
        raise ConfigError(f"model must be one of {', '.join(PRESETS)} or a Python file, got model={model!r}. {advice}")
    job = load_job(Path(model), backend)
    if config:
        raise ConfigError(f"config must be empty for a file, got config={' '.join(config)}. Change {model}.")
    return job


def _with_settings(config: ModelConfig, settings: Sequence[str]) -> ModelConfig:
    """A config with settings such as `dim=512`.

    Raises:
        ConfigError: no such setting, or a value that it refuses.
    """
    names = [each.name for each in dataclasses.fields(config)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for setting in settings:
        name, found, text = setting.partition("=")
        if not found or name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            advice = f"Did you mean {near[0]}?" if near else f"Use one of {', '.join(names)}."
            raise ConfigError(f"config must be settings of {type(config).__name__}, got config={setting!r}. {advice}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{name} must be a number, true, false or a list, got {name}={text!r}.") from error
        values[name] = tuple(value) if isinstance(value, list) else value
    try:
        return dataclasses.replace(config, **values)  # type: ignore[type-var]
    except TypeError as error:
        raise ConfigError(f"config must be numbers that fit together, got {' '.join(settings)}: {error}.") from error


def _optimizer(default: OptimizerSpec, name: str | None, momentum: float | None) -> OptimizerSpec:
    """Another optimizer, or the same with a momentum.

    Raises:
        ConfigError: no such optimizer, or a momentum for one that has none.
    """
    if name is not None and name not in OPTIMIZERS:
        near = difflib.get_close_matches(name, OPTIMIZERS, n=1)
        advice = f"Did you mean {near[0]}?" if near else "Use for example adamw."
        raise ConfigError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got optimizer={name!r}. {advice}")
    spec = default if name is None else getattr(optim, name)(1e-3)
    if momentum is None:
        return spec
    if not hasattr(spec, "momentum"):
        raise ConfigError(
            f"momentum must be left out for {type(spec).__name__}, which has no such number, got momentum={momentum}. "
            "Use it with sgd, rmsprop or muon."
        )
    return dataclasses.replace(spec, momentum=momentum)
