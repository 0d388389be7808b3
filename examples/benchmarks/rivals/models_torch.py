"""The models as one writes them in torch."""

import torch
from torch import nn

from crosstrain.models import GPTConfig
from crosstrain_torch.models.gpt import GPT


class Block(nn.Module):
    """Convolution, BatchNorm, ReLU, and a pooling where asked for."""

    def __init__(self, fan_in: int, fan_out: int, *, pool: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(fan_out)
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(torch.relu(self.norm(self.conv(x))))


class ResNet9(nn.Module):
    """Images (B, H, W, 3), the layout of the batches -> logits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        w = width
        self.prep, self.layer1 = Block(3, w), Block(w, 2 * w, pool=True)
        self.residual1 = nn.Sequential(Block(2 * w, 2 * w), Block(2 * w, 2 * w))
        self.layer2, self.layer3 = Block(2 * w, 4 * w, pool=True), Block(4 * w, 8 * w, pool=True)
        self.residual3 = nn.Sequential(Block(8 * w, 8 * w), Block(8 * w, 8 * w))
        self.head = nn.Linear(8 * w, 10, bias=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.layer1(self.prep(image.permute(0, 3, 1, 2)))
        x = self.layer2(x + self.residual1(x))
        x = self.layer3(x)
        x = x + self.residual3(x)
        return self.head(x.amax((2, 3))) * 0.125


def make(name: str) -> nn.Module:
    """A model by the name of its workload."""
    torch.manual_seed(0)
    if name == "mlp":
        return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    if name == "resnet9":
        return ResNet9(16)
    return GPT(GPTConfig(vocab_size=4096, dim=256, n_layers=4, n_heads=8, max_seq_len=256, tie_embeddings=False))
