"""`DeepSpeed`: ZeRO by the library of that name, as a strategy of the torch engine. What, never how."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from crosstrain.errors import ConfigError
from crosstrain.optim import Adagrad, Adam, AdamW, Lion, NAdam, OptimizerSpec, RAdam, RmsProp, Sgd
from crosstrain.precision import Precision

Stage = Literal[1, 2, 3]
# Their update of a number needs no other number, so it is the same on a flat part of all parameters.
_ELEMENTWISE = (Sgd, Adam, AdamW, NAdam, RAdam, RmsProp, Adagrad, Lion)


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepSpeed:
    """ZeRO (Rajbhandari et al., arXiv:1910.02054) by DeepSpeed, over all processes of the torch engine.

    The engine's own way to the same memory is `MeshSpec(fsdp=N)`, which goes together with every other axis and all
    optimizers; this is for what is set up for DeepSpeed already. One process has nothing to split, and trains without.

    Attributes:
        stage: what each process has a part of: 1 the moments, 2 gradients too, 3 parameters too.
        zero: further entries of DeepSpeed's `zero_optimization`, such as `{"reduce_bucket_size": 5 << 20}`.

    Raises:
        ConfigError: no such stage, or a stage in `zero`.
    """

    stage: Stage = 2
    zero: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.stage not in get_args(Stage):
            raise ConfigError(f"stage must be 1, 2 or 3, got stage={self.stage!r}. Without ZeRO leave out deepspeed.")
        if "stage" in (self.zero or {}):
            raise ConfigError(f"zero must leave the stage to stage=, got zero={dict(self.zero or {})}.")

    def require_mesh(self, sizes: Mapping[str, int]) -> None:
        """Refuses a mesh that splits more than the batch.

        Raises:
            ConfigError: names the axes.
        """
        others = [f"{axis}={size}" for axis, size in sizes.items() if axis != "data" and size > 1]
        if others:
            raise ConfigError(
                f"deepspeed must have a mesh of data alone, got {', '.join(others)}. Use 1 for them, or leave out "
                "deepspeed: fsdp splits what ZeRO does."
            )

    def require(self, optimizer: OptimizerSpec, precision: Precision, *, averages: bool) -> None:
        """Refuses what flat parts of parameters cannot do.

        Raises:
            ConfigError: an update that sees whole tensors, layers that stand still, an average of the weights, or
                weights that are not float32 or are cast.
        """
        if not isinstance(optimizer, _ELEMENTWISE):
            known = ", ".join(kind.__name__ for kind in _ELEMENTWISE)
            raise ConfigError(
                f"optimizer must be one of {known} with deepspeed, which updates flat parts of parameters, got "
                f"{type(optimizer).__name__}. Use mesh=ct.MeshSpec(fsdp=N) in place of deepspeed."
            )
        if any(group.frozen for group in optimizer.layers):
            raise ConfigError("layers must all learn with deepspeed, got some that stand still. Use MeshSpec(fsdp=N).")
        if averages:
            raise ConfigError("average must be None with deepspeed, got one. Use mesh=ct.MeshSpec(fsdp=N).")
        if precision.param_dtype != "float32" or (precision.compute_dtype, precision.casting) not in (
            ("float32", "cast"),
            ("bfloat16", "autocast"),
        ):
            raise ConfigError(
                f"precision must be 'fp32' or 'bf16-autocast' with deepspeed, got {precision}. "
                "Use one of them, or mesh=ct.MeshSpec(fsdp=N)."
            )
