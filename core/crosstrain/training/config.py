"""`RunConfig`: the settings of a run as plain data, from a YAML file or the command line."""

import dataclasses
import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from crosstrain.accelerator import Accelerator
from crosstrain.errors import ConfigError, require_count, require_file
from crosstrain.mesh import MeshSpec
from crosstrain.optim import OptimizerSpec, adamw, undecayed
from crosstrain.schedules import Schedule, constant, cosine, linear, one_cycle
from crosstrain.state import TrainState
from crosstrain.step import LossFn, Remat
from crosstrain.trainer import Trainer

if TYPE_CHECKING:
    from crosstrain.callbacks import Callback
    from crosstrain.checkpoint import CheckpointSpec
    from crosstrain.trackers import Tracker

Strategy = Literal["no", "epoch", "steps"]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings of a run. Names that Hugging Face's `TrainingArguments` has, too, mean what they mean there.

    Raises:
        ConfigError: a number or a name out of range.
    """

    backend: str | None = None
    """Engine, `jax` or `torch`; None takes the one that is installed."""
    precision: str = "fp32"
    """`fp64`, `fp32`, `bf16`, `bf16-autocast` or `bf16-pure`."""
    mesh: MeshSpec = dataclasses.field(default_factory=MeshSpec)
    """Devices along each mesh axis."""
    seed: int = 0
    """Decides initial weights, data order and dropout masks."""
    batch_size: int = 32
    """Examples of an optimizer step, over all devices and micro-batches."""
    accumulate_steps: int = 1
    """Micro-batches that this batch is cut into."""
    num_train_epochs: int = 3
    """Passes over the training data."""
    learning_rate: float = 5e-5
    """Peak of the schedule."""
    lr_scheduler_type: Literal["constant", "linear", "cosine", "one_cycle"] = "linear"
    """How the rate falls; `one_cycle` also rises, over its first quarter."""
    warmup_steps: int = 0
    """Optimizer steps of linear warmup, for `linear` and `cosine`."""
    weight_decay: float = 0.0
    """Decoupled, of AdamW; biases and the parameters of norm layers have none."""
    max_grad_norm: float | None = 1.0
    """Largest global gradient norm; None or 0 does not clip."""
    remat: Remat = "none"
    """What the backward pass computes again instead of keeping it: `none`, `full` or `dots`, see `StepOptions`."""
    logging_steps: int = 10
    """Optimizer steps between reads of the metrics."""
    eval_strategy: Literal["no", "epoch"] = "epoch"
    """Whether `fit` evaluates after each epoch, where it is given data to."""
    output_dir: Path | None = None
    """Where checkpoints go; None saves none."""
    save_strategy: Strategy = "epoch"
    """When to save."""
    save_steps: int = 500
    """Optimizer steps between saves, for `steps`."""
    save_total_limit: int = 3
    """How many of the newest checkpoints stay."""
    resume: bool = True
    """Go on from the newest checkpoint of `output_dir` where there is one."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate_steps", "num_train_epochs", "logging_steps", "save_steps"):
            require_count(name, getattr(self, name))
        for name, hint in get_type_hints(type(self)).items():
            if get_origin(hint) is Literal and getattr(self, name) not in get_args(hint):
                allowed = ", ".join(get_args(hint))
                raise ConfigError(f"{name} must be one of {allowed}, got {name}={getattr(self, name)!r}.")
        if self.warmup_steps and self.lr_scheduler_type not in ("linear", "cosine"):
            raise ConfigError(
                f"warmup_steps must be 0 for lr_scheduler_type={self.lr_scheduler_type!r}, got warmup_steps="
                f"{self.warmup_steps}. Use linear or cosine."
            )

    @classmethod
    def from_yaml(cls, path: Path | str) -> "RunConfig":
        """The settings of a YAML file; what it does not name has its default.

        Raises:
            ConfigError: no such file, no mapping, an unknown name (the nearest is said), or a value out of range.
        """
        import yaml

        require_file("path", "YAML", Path(path))
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"path must be a YAML file, got {path}: {error}.") from error
        values = _checked(cls, values, str(path))
        if "mesh" in values:
            values["mesh"] = MeshSpec(**_checked(MeshSpec, values["mesh"], f"mesh in {path}"))
        if values.get("output_dir") is not None:
            values["output_dir"] = Path(values["output_dir"])
        return cls(**values)

    def to_yaml(self, path: Path | str) -> None:
        """Writes all settings; `from_yaml` gives an equal config."""
        import yaml

        values = dataclasses.asdict(self) | {"output_dir": self.output_dir and str(self.output_dir)}
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")

    @classmethod
    def cli(cls, args: Sequence[str] | None = None, *, default: "RunConfig | None" = None) -> "RunConfig":
        """The settings of a command line, `--learning-rate 1e-3 --mesh.fsdp 2`; it ends the script when one is wrong.

        Args:
            args: by default those of the script.
            default: what the command line changes, such as `RunConfig.from_yaml(...)`.
        """
        import tyro

        return tyro.cli(cls, args=args, default=default or cls())

    def accelerator(self) -> Accelerator:
        """The accelerator of the run."""
        return Accelerator(self.backend, precision=self.precision, mesh=self.mesh, seed=self.seed)

    def schedule(self, total_steps: int) -> Schedule:
        """The learning rate over `total_steps` optimizer steps, for example `len(loader) * num_train_epochs`."""
        if self.lr_scheduler_type == "constant":
            return constant(self.learning_rate)
        if self.lr_scheduler_type == "one_cycle":
            return one_cycle(self.learning_rate, total_steps)
        build: Callable[..., Schedule] = linear if self.lr_scheduler_type == "linear" else cosine
        return build(self.learning_rate, total_steps, warmup_steps=self.warmup_steps)

    def optimizer(self, total_steps: int) -> OptimizerSpec:
        """AdamW with the schedule."""
        return adamw(self.schedule(total_steps), weight_decay=self.weight_decay, groups=(undecayed(),))

    def checkpoints(self) -> "CheckpointSpec | None":
        """When to save, and what stays; None without `output_dir`, and for `no`."""
        from crosstrain.checkpoint import CheckpointSpec

        if self.output_dir is None or self.save_strategy == "no":
            return None
        return CheckpointSpec(
            root=self.output_dir,
            every_steps=self.save_steps if self.save_strategy == "steps" else None,
            every_epoch=self.save_strategy == "epoch",
            keep_last=self.save_total_limit,
        )

    def trainer(
        self,
        accelerator: Accelerator,
        state: TrainState,
        loss_fn: LossFn,
        *,
        callbacks: "Sequence[Callback]" = (),
        trackers: "Sequence[Tracker]" = (),
        progress: bool = True,
    ) -> Trainer:
        """The trainer of the run; see `Trainer` for what is not a setting."""
        return Trainer(
            accelerator,
            state,
            loss_fn,
            accumulate_steps=self.accumulate_steps,
            clip_norm=self.max_grad_norm or None,
            remat=self.remat,
            log_every=self.logging_steps,
            callbacks=callbacks,
            trackers=trackers,
            progress=progress,
        )

    def fit_options(self, eval_loader: Any = None) -> dict[str, Any]:
        """What `trainer.fit(loader, **config.fit_options(eval_loader))` is given."""
        checkpoints = self.checkpoints()
        return {
            "epochs": self.num_train_epochs,
            "eval_loader": eval_loader if self.eval_strategy == "epoch" else None,
            "checkpoints": checkpoints,
            "resume": "auto" if self.resume and checkpoints is not None else None,
        }


def _checked(kind: type, values: Any, what: str) -> dict[str, Any]:
    """A mapping whose names are fields of a dataclass, and whose values are of their types.

    Raises:
        ConfigError: names the setting, and the nearest that there is, or the type that it has.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{what} must hold names and values, got {type(values).__name__}.")
    hints = get_type_hints(kind)
    found = dict(values)
    for name, value in values.items():
        if name not in hints:
            near = difflib.get_close_matches(str(name), hints, n=1)
            advice = f"Did you mean {near[0]}?" if near else f"Use one of {', '.join(hints)}."
            raise ConfigError(f"{what} must hold settings of {kind.__name__}, got {name!r}. {advice}")
        found[name] = _value(name, hints[name], value)
    return found


_WORDS: dict[type, str] = {int: "an integer", bool: "true or false", str: "a string", Path: "a path"}


def _value(name: str, hint: Any, value: Any) -> Any:
    """What YAML read, held against the type of the setting; names of a `Literal` are checked by the class."""
    kinds = get_args(hint) or (hint,)
    if value is False and "no" in kinds:
        return "no"  # which YAML reads as false
    if value is None and type(None) in kinds:
        return None
    if float in kinds:
        return _number(name, value)  # YAML reads 1e-3 as a string
    for kind, word in _WORDS.items():
        if kind in kinds and type(value) is not (str if kind is Path else kind):
            raise ConfigError(f"{name} must be {word}, got {name}={value!r}.")
    return value


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} must be a number, got {name}={value!r}.") from error
