"""Two states in a loop of your own: a small GAN that draws 8x8 digits, on the engine you pick.

    python examples/custom_loop.py --backend jax
    python examples/custom_loop.py --backend torch --epochs 10

`Trainer` trains one model with one loss. Where that does not fit, `accelerator.value_and_grad` gives the gradients of
one state's loss, `state.apply_gradients` takes the step, and further states follow the batch: their models reach the
loss function after `ops` and are not trained.

Noise is drawn on the host by a counter-based generator, so a step sees the same noise on both engines. Two models that
learn from each other magnify rounding: in float32 the printed losses are equal over the first epochs and then part,
with `--precision fp64` they are equal to the end. In float32 the defaults print (12 seconds, two CPU cores)

    distance to held-out digits: 3.352 for real ones, 7.218 untrained
    jax: epoch 1, discriminator loss 0.570340, generator loss 0.913155, distance 7.227
    jax: epoch 90, discriminator loss 0.398006, generator loss 1.549261, distance 4.323

    torch: epoch 1, discriminator loss 0.570340, generator loss 0.913155, distance 7.227
    torch: epoch 90, discriminator loss 0.424651, generator loss 1.635230, distance 4.202

and with `--precision fp64` either engine ends with

    epoch 90, discriminator loss 0.444040, generator loss 1.510215, distance 4.275
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import tyro

import crosstrain as ct
from crosstrain.random import normal

PIXELS = 64


@dataclass(frozen=True)
class Args:
    """Trains a generative adversarial network of two MLPs on scikit-learn's digits."""

    backend: Literal["jax", "torch"] | None = None
    """Engine; None takes the one that is installed."""
    epochs: int = 90
    """Passes over the training images."""
    batch_size: int = 64
    """Real images per step, and as many drawn ones."""
    learning_rate: float = 1e-3
    """Rate of Adam, the same for both models."""
    noise_size: int = 16
    """Numbers that the generator makes an image from."""
    width: int = 256
    """Width of the two hidden layers of both models."""
    report_every: int = 15
    """Epochs between printed lines."""
    precision: Literal["fp32", "bf16", "fp64"] = "fp32"
    """Types of weights and compute."""
    seed: int = 0
    """Decides initial weights, data order and noise, the same on both engines."""


def generator_loss(generator, batch, ops, discriminator):
    """The generator wants its images judged real (Goodfellow et al. 2014, the non-saturating form)."""
    logits = discriminator(generator(batch["noise"]))
    return ops.bce_with_logits(logits, ops.ones_like(logits))


def discriminator_loss(discriminator, batch, ops, generator):
    """The mean over real and drawn images together: sums and weights add, means do not."""
    real, drawn = discriminator(batch["image"]), discriminator(generator(batch["noise"]))
    on_real = ops.bce_with_logits(real, ops.ones_like(real))
    on_drawn = ops.bce_with_logits(drawn, ops.zeros_like(drawn))
    return ct.Loss(on_real.sum + on_drawn.sum, on_real.weight + on_drawn.weight)


def draw(generator, batch, ops):
    return generator(batch["noise"])


def distance(drawn: np.ndarray, real: np.ndarray) -> float:
    """From each drawn image to the nearest real one and from each real one to the nearest drawn, averaged."""
    squared = np.square(drawn).sum(1)[:, None] + np.square(real).sum(1)[None, :] - 2 * drawn @ real.T
    pairs = np.sqrt(np.maximum(squared, 0))
    return float(pairs.min(1).mean() + pairs.min(0).mean()) / 2


def main(args: Args) -> None:
    accelerator = ct.Accelerator(args.backend, precision=args.precision, seed=args.seed)
    digits = ct.data.digits()
    loader = accelerator.loader(digits.train, batch_size=args.batch_size, shuffle=True, drop_last=True)

    hidden = (args.width, args.width)
    generator_config = ct.models.MLPConfig(in_features=args.noise_size, hidden=hidden, out_features=PIXELS)
    discriminator_config = ct.models.MLPConfig(in_features=PIXELS, hidden=hidden, out_features=1)
    adam = ct.adam(args.learning_rate, betas=(0.5, 0.999))
    generator = accelerator.prepare(ct.models.build("mlp", generator_config, accelerator), adam)
    discriminator = accelerator.prepare(ct.models.build("mlp", discriminator_config, accelerator), adam)

    generator_gradients = accelerator.value_and_grad(generator_loss)
    discriminator_gradients = accelerator.value_and_grad(discriminator_loss)
    draw_step = accelerator.predict_step(draw)

    def noise(name: str, count: int) -> dict:
        return accelerator.to_device({"noise": normal(args.seed, f"noise/{name}", (count, args.noise_size))})

    real = digits.test["image"].reshape(-1, PIXELS)
    test_noise = noise("test", len(real))

    def quality() -> float:
        return distance(draw_step(generator, test_noise)["prediction"], real)

    training_images = digits.train["image"].reshape(-1, PIXELS)[: len(real)]
    print(
        f"distance to held-out digits: {distance(training_images, real):.3f} for real ones, {quality():.3f} untrained"
    )
    for epoch in range(1, args.epochs + 1):
        for images in loader:
            batch = images | noise(str(generator.step), args.batch_size)
            d_metrics, gradients = discriminator_gradients(discriminator, batch, generator)
            discriminator.apply_gradients(gradients)
            g_metrics, gradients = generator_gradients(generator, batch, discriminator)
            generator.apply_gradients(gradients)
        if epoch == 1 or epoch % args.report_every == 0 or epoch == args.epochs:
            print(
                f"{accelerator.backend}: epoch {epoch}, discriminator loss {d_metrics['loss']:.6f}, "
                f"generator loss {g_metrics['loss']:.6f}, distance {quality():.3f}"
            )


if __name__ == "__main__":
    main(tyro.cli(Args))
