"""The DAWNBench ResNet-9 in flax nnx."""

import jax
import jax.numpy as jnp
from flax import nnx

from crosstrain.models.resnet9 import ResNet9Config
from crosstrain_jax.models.layers import BatchNorm


class ConvBlock(nnx.Module):
    """Convolution, BatchNorm, ReLU; after the pooling, a residual pair where the layer has one."""

    def __init__(self, prefix: str, config: ResNet9Config, *, rngs: nnx.Rngs) -> None:
        fan_in, fan_out = config.convolutions[prefix]
        side, pad = config.side(prefix), config.side(prefix) // 2
        self.conv = nnx.Conv(fan_in, fan_out, (side, side), padding=((pad, pad),) * 2, use_bias=False, rngs=rngs)
        self.norm = BatchNorm(fan_out, eps=config.norm_eps, momentum=config.norm_momentum)
        self.pool = prefix.startswith("layer") and "residual" not in prefix
        inner = [name for name in config.convolutions if name.startswith(f"{prefix}.residual")]
        self.residual = nnx.List([ConvBlock(name, config, rngs=rngs) for name in inner])

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, H, W, C'), or half the size with pooling."""
        x = jax.nn.relu(self.norm(self.conv(x)))
        if self.pool:
            x = nnx.max_pool(x, (2, 2), strides=(2, 2))
        y = x
        for block in self.residual:
            y = block(y)
        return x + y if len(self.residual) else x


class ResNet9(nnx.Module):
    """See `ResNet9Config`."""

    def __init__(self, config: ResNet9Config, *, rngs: nnx.Rngs) -> None:
        self.config = config
        if config.whitening:
            window, pads = (config.whitening,) * 2, (config.whitening_padding,) * 2
            filters = config.whitened_channels
            self.whiten = nnx.Conv(config.in_channels, filters, window, padding=pads, use_bias=False, rngs=rngs)
        self.prep = ConvBlock("prep", config, rngs=rngs)
        self.layer1 = ConvBlock("layer1", config, rngs=rngs)
        self.layer2 = ConvBlock("layer2", config, rngs=rngs)
        self.layer3 = ConvBlock("layer3", config, rngs=rngs)
        self.head = nnx.Linear(8 * config.width, config.num_classes, use_bias=False, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        """Images (B, H, W, C) -> logits (B, num_classes)."""
        c = self.config
        c.check(image, jnp.issubdtype(image.dtype, jnp.floating))
        x = self.whiten(image) if c.whitening else image
        x = self.layer3(self.layer2(self.layer1(self.prep(x))))
        return self.head(x.max((1, 2))) * c.head_scale
