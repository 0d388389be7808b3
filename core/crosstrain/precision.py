"""`Precision`: in which floating-point types a run keeps its weights and computes."""

from dataclasses import dataclass
from typing import Literal, get_args

from crosstrain.errors import ConfigError

FloatDtype = Literal["float64", "float32", "bfloat16"]
Casting = Literal["cast", "autocast"]
ReduceDtype = Literal["bfloat16", "bf16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Precision:
    """Floating-point types of a run.

    Weights and optimizer moments live in `param_dtype`. Before the forward pass weights and floating inputs
    are cast to `compute_dtype`; gradients arrive in `param_dtype`. Norm statistics, softmax, losses and
    metrics are computed in float32 or wider, whatever `compute_dtype` is.

    Args:
        param_dtype: type of the weights, the moments and the update.
        compute_dtype: type of matrix products and activations.
        reduce_dtype: type in which gradients are added up over `data` and `fsdp`: `bfloat16` (or `bf16`) sends half of
            what float32 does. None adds in the type that gradients have. Axes besides these two have to be 1.
        casting: `cast` is the definition that both engines share. `autocast` leaves the choice per operation to
            `torch.autocast`; only the torch engine has it, and its list of operations differs by device.

    Raises:
        ConfigError: an unknown type or casting, a compute type wider than the weights, or a `reduce_dtype` other than
            bfloat16.
    """

    param_dtype: FloatDtype = "float32"
    compute_dtype: FloatDtype = "float32"
    casting: Casting = "cast"
    reduce_dtype: ReduceDtype | None = None

    def __post_init__(self) -> None:
        for field in ("param_dtype", "compute_dtype"):
            if getattr(self, field) not in get_args(FloatDtype):
                raise ConfigError(
                    f"{field} must be one of {', '.join(get_args(FloatDtype))}, got {field}={getattr(self, field)!r}."
                )
        if self.casting not in get_args(Casting):
            raise ConfigError(f"casting must be 'cast' or 'autocast', got casting={self.casting!r}.")
        if self.reduce_dtype not in (None, *get_args(ReduceDtype)):
            raise ConfigError(f"reduce_dtype must be 'bfloat16' or None, got reduce_dtype={self.reduce_dtype!r}.")
        order = get_args(FloatDtype)
        if order.index(self.compute_dtype) < order.index(self.param_dtype):
            raise ConfigError(
                f"compute_dtype must not be wider than param_dtype, got compute_dtype={self.compute_dtype!r} "
                f"over param_dtype={self.param_dtype!r}. Make param_dtype {self.compute_dtype!r}."
            )

    @classmethod
    def parse(cls, precision: "Precision | str") -> "Precision":
        """Turns a preset name (`fp64`, `fp32`, `bf16`, `bf16-autocast`, `bf16-pure`) into a `Precision`.

        Raises:
            ConfigError: the name is not a preset.
        """
        if isinstance(precision, Precision):
            return precision
        if precision not in PRESETS:
            raise ConfigError(
                f"precision must be one of {', '.join(PRESETS)} or a Precision, got precision={precision!r}."
            )
        return PRESETS[precision]

    @property
    def reduces_narrowly(self) -> bool:
        """Whether gradients are added up in bfloat16, which is not their own type."""
        return self.reduce_dtype is not None and self.param_dtype != "bfloat16"

    @property
    def loss_dtype(self) -> Literal["float64", "float32"]:
        """Type of losses and metrics: float64 when weights are float64, else float32."""
        return "float64" if self.param_dtype == "float64" else "float32"

    @property
    def casts_batch(self) -> bool:
        """Whether floating inputs, which arrive in `loss_dtype`, are cast: for weights that are narrow already, too."""
        return self.casting == "cast" and self.compute_dtype != self.loss_dtype


def require_casting(precision: Precision, backend: str, castings: tuple[Casting, ...]) -> None:
    """Refuses a precision that an engine with these castings does not have.

    Raises:
        ConfigError: says so.
    """
    if precision.casting not in castings:
        raise ConfigError(
            f"casting must be {' or '.join(map(repr, castings))} on the {backend} engine, got "
            f"casting={precision.casting!r}. Use precision='bf16'."
        )


PRESETS = {
    "fp64": Precision(param_dtype="float64", compute_dtype="float64"),
    "fp32": Precision(),
    "bf16": Precision(compute_dtype="bfloat16"),
    "bf16-autocast": Precision(compute_dtype="bfloat16", casting="autocast"),
    "bf16-pure": Precision(param_dtype="bfloat16", compute_dtype="bfloat16"),
}
