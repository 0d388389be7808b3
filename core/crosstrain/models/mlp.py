"""The multi-layer perceptron's config."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from crosstrain import init
from crosstrain.errors import ConfigError
from crosstrain.models.spec import ModelConfig, ParamSpec, require_positive, require_rate

Activation = Literal["relu", "gelu", "gelu_tanh"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MLPConfig(ModelConfig):
    """Linear layers with an activation and dropout between them: (B, in_features) -> (B, out_features).

    Attributes:
        in_features: inputs; an input of shape (B, ...) is flattened.
        hidden: widths of the hidden layers.
        out_features: outputs.
        activation: `gelu` is the exact one (erf), `gelu_tanh` its approximation.
        dropout: rate after each activation.
    """

    kind: ClassVar[str] = "mlp"
    in_features: int = 64
    hidden: tuple[int, ...] = (128,)
    out_features: int = 10
    activation: Activation = "relu"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require_positive(self, "in_features", "out_features")
        require_rate(self, "dropout")
        if any(width < 1 for width in self.hidden):
            raise ConfigError(f"hidden must be positive widths, got hidden={self.hidden}.")
        if self.activation not in get_args(Activation):
            raise ConfigError(
                f"activation must be one of {', '.join(get_args(Activation))}, got activation={self.activation!r}."
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Inputs, hidden widths, outputs."""
        return (self.in_features, *self.hidden, self.out_features)

    def parameters(self) -> dict[str, ParamSpec]:
        """See `ModelConfig`."""
        table: dict[str, ParamSpec] = {}
        for index, (fan_in, fan_out) in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            axes = ("mlp", "embed") if index % 2 == 0 else ("embed", "mlp")
            start = init.fan_in_uniform(fan_in)
            table[f"layers.{index}.weight"] = ParamSpec(shape=(fan_out, fan_in), axes=axes, init=start, role="weight")
            table[f"layers.{index}.bias"] = ParamSpec(shape=(fan_out,), axes=axes[:1], init=start, role="bias")
        return table
