"""The models as one writes them in flax nnx."""

import jax
from flax import nnx

from crosstrain.models import GPTConfig
from crosstrain_jax.models.gpt import GPT


class Block(nnx.Module):
    """Convolution, BatchNorm, ReLU, and a pooling where asked for."""

    def __init__(self, fan_in: int, fan_out: int, rngs: nnx.Rngs, *, pool: bool = False) -> None:
        self.conv = nnx.Conv(fan_in, fan_out, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(fan_out, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.pool = pool

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.norm(self.conv(x)))
        return nnx.max_pool(x, (2, 2), strides=(2, 2)) if self.pool else x


class ResNet9(nnx.Module):
    """Images (B, H, W, 3) -> logits."""

    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        w = width
        self.prep, self.layer1 = Block(3, w, rngs), Block(w, 2 * w, rngs, pool=True)
        self.residual1 = nnx.Sequential(Block(2 * w, 2 * w, rngs), Block(2 * w, 2 * w, rngs))
        self.layer2, self.layer3 = Block(2 * w, 4 * w, rngs, pool=True), Block(4 * w, 8 * w, rngs, pool=True)
        self.residual3 = nnx.Sequential(Block(8 * w, 8 * w, rngs), Block(8 * w, 8 * w, rngs))
        self.head = nnx.Linear(8 * w, 10, use_bias=False, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        x = self.layer1(self.prep(image))
        x = self.layer2(x + self.residual1(x))
        x = self.layer3(x)
        x = x + self.residual3(x)
        return self.head(x.max((1, 2))) * 0.125


def make(name: str) -> nnx.Module:
    """A model by the name of its workload."""
    rngs = nnx.Rngs(0)
    if name == "mlp":
        return nnx.Sequential(nnx.Linear(64, 128, rngs=rngs), nnx.relu, nnx.Linear(128, 10, rngs=rngs))
    if name == "resnet9":
        return ResNet9(16, rngs)
    config = GPTConfig(vocab_size=4096, dim=256, n_layers=4, n_heads=8, max_seq_len=256, tie_embeddings=False)
    return GPT(config, rngs=rngs)
