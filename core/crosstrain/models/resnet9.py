"""The DAWNBench ResNet-9's config (Page 2018, "How to train your ResNet")."""

from dataclasses import dataclass
from typing import ClassVar

from crosstrain import init
from crosstrain.errors import ConfigError
from crosstrain.models.spec import ModelConfig, ParamSpec, require_positive

_POOLS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class ResNet9Config(ModelConfig):
    """Images (B, H, W, C) -> logits (B, num_classes).

    prep -> layer1 (pool, residual) -> layer2 (pool) -> layer3 (pool, residual) -> global max-pool -> linear,
    where every convolution is 3x3 with padding 1, without bias, followed by BatchNorm and ReLU.

    Attributes:
        width: channels of the first convolution; the others have 2, 4 and 8 times as many. DAWNBench: 64.
        image_size: height and width of the images, in pixels; three poolings halve it.
        in_channels: channels of the images.
        num_classes: outputs.
        head_scale: the logits are multiplied by it (DAWNBench: 0.125).
        norm_eps: added to the variance in BatchNorm.
        norm_momentum: share of the new statistics in the running ones, as torch counts it.
    """

    kind: ClassVar[str] = "resnet9"
    width: int = 64
    image_size: int = 32
    in_channels: int = 3
    num_classes: int = 10
    head_scale: float = 0.125
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1

    def __post_init__(self) -> None:
        require_positive(self, "width", "image_size", "in_channels", "num_classes")
        if self.image_size < 2**_POOLS:
            raise ConfigError(
                f"image_size must be at least {2**_POOLS} (three poolings halve it), got image_size={self.image_size}."
            )

    @property
    def convolutions(self) -> dict[str, tuple[int, int]]:
        """Canonical prefix -> (input channels, output channels) of every convolution, in order."""
        w = self.width
        return {
            "prep": (self.in_channels, w),
            "layer1": (w, 2 * w),
            "layer1.residual.0": (2 * w, 2 * w),
            "layer1.residual.1": (2 * w, 2 * w),
            "layer2": (2 * w, 4 * w),
            "layer3": (4 * w, 8 * w),
            "layer3.residual.0": (8 * w, 8 * w),
            "layer3.residual.1": (8 * w, 8 * w),
        }

    def parameters(self) -> dict[str, ParamSpec]:
        """See `ModelConfig`."""
        table: dict[str, ParamSpec] = {}
        for prefix, (fan_in, fan_out) in self.convolutions.items():
            table[f"{prefix}.conv.weight"] = ParamSpec(
                shape=(fan_out, fan_in, 3, 3),
                axes=("conv_out", "conv_in", "height", "width"),
                init=init.fan_in_uniform(9 * fan_in),
                role="weight",
            )
            for name, value in (("weight", 1.0), ("bias", 0.0)):
                table[f"{prefix}.norm.{name}"] = ParamSpec(
                    shape=(fan_out,), axes=("conv_out",), init=init.constant(value), role="norm"
                )
        features = 8 * self.width
        table["head.weight"] = ParamSpec(
            shape=(self.num_classes, features),
            axes=("classes", "conv_out"),
            init=init.fan_in_uniform(features),
            role="weight",
        )
        return table
