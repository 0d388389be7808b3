"""The DAWNBench ResNet-9's config (Page 2018, "How to train your ResNet")."""

from dataclasses import dataclass
from typing import Any, ClassVar

from crosstrain import init
from crosstrain.errors import ConfigError, ModelError
from crosstrain.models.checks import require_floating, require_shape
from crosstrain.models.spec import ModelConfig, ParamSpec, require_positive

_SMALLEST = 2**3  # three poolings
_CONVOLUTION = ("conv_out", "conv_in", "height", "width")


@dataclass(frozen=True, kw_only=True, slots=True)
class ResNet9Config(ModelConfig):
    """Images (B, H, W, C) -> logits (B, num_classes).

    prep -> layer1 (pool, residual) -> layer2 (pool) -> layer3 (pool, residual) -> global max-pool -> linear,
    where every convolution is 3x3 with padding 1, without bias, followed by BatchNorm and ReLU.

    With `whitening` = k a k x k convolution without bias comes first, k k in_channels filters over the image with
    (k - 1) // 2 zeros before it and k // 2 after it in each direction, and `prep` becomes 1x1: with k = 3 the same
    functions, whose first layer learns from uncorrelated inputs. It starts as a random rotation: build the model with
    `weights={"whiten.weight": ct.data.whitening_filters(...)}`, and freeze it by `state.freeze("^whiten")`.
    Source: Page 2019, "How to train your ResNet 8: bag of tricks".

    Attributes:
        width: channels of the first convolution; the others have 2, 4 and 8 times as many. DAWNBench: 64.
        image_size: height and width of the images, in pixels; three poolings halve it. None takes any, for images that
            grow during training.
        in_channels: channels of the images.
        num_classes: outputs.
        head_scale: the logits are multiplied by it (DAWNBench: 0.125).
        norm_eps: added to the variance in BatchNorm.
        norm_momentum: share of the new statistics in the running ones, as torch counts it.
        whitening: side of the patches that the first convolution whitens; 0 for no such layer.
    """

    kind: ClassVar[str] = "resnet9"
    width: int = 64
    image_size: int | None = 32
    in_channels: int = 3
    num_classes: int = 10
    head_scale: float = 0.125
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    whitening: int = 0

    def __post_init__(self) -> None:
        sized = () if self.image_size is None else ("image_size",)
        whitened = ("whitening",) if self.whitening else ()
        require_positive(self, "width", "in_channels", "num_classes", *sized, *whitened)
        if self.image_size is not None and self.image_size < _SMALLEST:
            raise ConfigError(
                f"image_size must be at least {_SMALLEST} (three poolings halve it), got image_size={self.image_size}."
            )

    @property
    def convolutions(self) -> dict[str, tuple[int, int]]:
        """Canonical prefix -> (input channels, output channels) of every convolution, in order."""
        w = self.width
        return {
            "prep": (self.whitened_channels if self.whitening else self.in_channels, w),
            "layer1": (w, 2 * w),
            "layer1.residual.0": (2 * w, 2 * w),
            "layer1.residual.1": (2 * w, 2 * w),
            "layer2": (2 * w, 4 * w),
            "layer3": (4 * w, 8 * w),
            "layer3.residual.0": (8 * w, 8 * w),
            "layer3.residual.1": (8 * w, 8 * w),
        }

    @property
    def whitened_channels(self) -> int:
        """Filters of the convolution that whitens."""
        return self.whitening**2 * self.in_channels

    @property
    def whitening_padding(self) -> tuple[int, int]:
        """Zeros before and after the image for the convolution that whitens, in each direction."""
        return (self.whitening - 1) // 2, self.whitening // 2

    def side(self, prefix: str) -> int:
        """Side of a convolution's window, in pixels."""
        return 1 if prefix == "prep" and self.whitening else 3

    def check(self, image: Any, is_floating: bool) -> None:
        """Refuses images that the model cannot take.

        Raises:
            ModelError: integers, another shape, or sides that are too small.
        """
        require_floating("image", image, is_floating)
        require_shape("image", image, ("B", self.image_size or "H", self.image_size or "W", self.in_channels))
        if min(image.shape[1:3]) < _SMALLEST:
            raise ModelError(
                f"image must have sides of at least {_SMALLEST} (three poolings halve them), got {tuple(image.shape)}."
            )

    def parameters(self) -> dict[str, ParamSpec]:
        """See `ModelConfig`."""
        table: dict[str, ParamSpec] = {}
        if self.whitening:
            table["whiten.weight"] = ParamSpec(
                shape=(self.whitened_channels, self.in_channels, self.whitening, self.whitening),
                axes=_CONVOLUTION,
                init=init.orthogonal(),
                role="weight",
            )
        for prefix, (fan_in, fan_out) in self.convolutions.items():
            side = self.side(prefix)
            table[f"{prefix}.conv.weight"] = ParamSpec(
                shape=(fan_out, fan_in, side, side),
                axes=_CONVOLUTION,
                init=init.fan_in_uniform(side**2 * fan_in),
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
