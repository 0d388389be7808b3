"""The DAWNBench ResNet-9 in torch."""

import torch
import torch.nn.functional as F
from torch import nn

from crosstrain.models.resnet9 import ResNet9Config
from crosstrain_torch.models.layers import BatchNorm


class ConvBlock(nn.Module):
    """Convolution, BatchNorm, ReLU; after the pooling, a residual pair where the layer has one."""

    def __init__(self, prefix: str, config: ResNet9Config) -> None:
        super().__init__()
        fan_in, fan_out = config.convolutions[prefix]
        side = config.side(prefix)
        self.conv = nn.Conv2d(fan_in, fan_out, side, padding=side // 2, bias=False)
        self.norm = BatchNorm(fan_out, eps=config.norm_eps, momentum=config.norm_momentum)
        self.pool = prefix.startswith("layer") and "residual" not in prefix
        inner = [name for name in config.convolutions if name.startswith(f"{prefix}.residual")]
        self.residual = nn.ModuleList(ConvBlock(name, config) for name in inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C', H, W), or half the size with pooling."""
        x = F.relu(self.norm(self.conv(x)))
        if self.pool:
            x = F.max_pool2d(x, 2)
        y = x
        for block in self.residual:
            y = block(y)
        return x + y if len(self.residual) else x


class ResNet9(nn.Module):
    """See `ResNet9Config`."""

    def __init__(self, config: ResNet9Config) -> None:
        super().__init__()
        self.config = config
        if config.whitening:
            self.whiten = nn.Conv2d(config.in_channels, config.whitened_channels, config.whitening, bias=False)
        self.prep = ConvBlock("prep", config)
        self.layer1 = ConvBlock("layer1", config)
        self.layer2 = ConvBlock("layer2", config)
        self.layer3 = ConvBlock("layer3", config)
        self.head = nn.Linear(8 * config.width, config.num_classes, bias=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images (B, H, W, C) -> logits (B, num_classes)."""
        c = self.config
        c.check(image, image.is_floating_point())
        # A view: channels-last images are what torch calls the channels_last memory format.
        x = image.permute(0, 3, 1, 2)
        if c.whitening:
            x = self.whiten(F.pad(x, c.whitening_padding * 2))
        x = self.layer3(self.layer2(self.layer1(self.prep(x))))
        return self.head(x.amax((2, 3))) * c.head_scale
