"""Handwritten digits with a small ResNet-9, on the engine you pick.

    python examples/digits.py --backend jax
    python examples/digits.py --backend torch --epochs 30 --width 16

Needs scikit-learn (`pip install 'crosstrain[examples]'`) for its 1797 images of 8x8 pixels; 359 of them are held out.
On two CPU cores the defaults end with

    jax: test accuracy 0.9972, 4,172 examples/s (15 epochs in 5.1 s, compilation and evaluation included)
    torch: test accuracy 0.9944, 12,337 examples/s (15 epochs in 1.7 s, compilation and evaluation included)

and over seeds 0 to 4 the accuracy is between 0.991 and 1.000 on both engines.
"""

import sys
import time
from dataclasses import dataclass
from typing import Literal

import tyro

import crosstrain as ct


@dataclass(frozen=True)
class Args:
    """Trains a small ResNet-9 on scikit-learn's digits and prints its test accuracy."""

    backend: Literal["jax", "torch"] | None = None
    """Engine; None takes the one that is installed."""
    epochs: int = 15
    """Passes over the training images."""
    batch_size: int = 64
    """Images per optimizer step."""
    learning_rate: float = 1e-2
    """Peak of the one-cycle schedule."""
    weight_decay: float = 0.05
    """Decoupled weight decay of AdamW."""
    label_smoothing: float = 0.1
    """Share of the target that is spread over all classes."""
    width: int = 8
    """Channels of the first convolution; the last ones have eight times as many."""
    precision: Literal["fp32", "bf16", "fp64"] = "fp32"
    """Types of weights and compute."""
    seed: int = 0
    """Decides initial weights and data order, the same on both engines."""
    require_accuracy: float | None = None
    """Exit with an error below this test accuracy, for example 0.98."""
    progress: bool = True
    """Show a progress bar when the output is a terminal."""


def main(args: Args) -> None:
    accelerator = ct.Accelerator(args.backend, precision=args.precision, seed=args.seed)
    digits = ct.data.digits()
    # BatchNorm would count padded images, so the last batch of an epoch, which is short, is left out.
    train = accelerator.loader(digits.train, batch_size=args.batch_size, shuffle=True, drop_last=True)
    test = accelerator.loader(digits.test, batch_size=256)

    def loss_fn(model, batch, ops):
        logits = model(batch["image"])
        loss = ops.cross_entropy(logits, batch["label"], label_smoothing=args.label_smoothing)
        return loss, {"accuracy": ops.accuracy(logits, batch["label"])}

    config = ct.models.ResNet9Config(width=args.width, image_size=8, in_channels=1, num_classes=10)
    schedule = ct.one_cycle(args.learning_rate, len(train) * args.epochs)
    state = accelerator.prepare(
        ct.models.build("resnet9", config, accelerator),
        ct.adamw(schedule, weight_decay=args.weight_decay),
    )
    trainer = ct.Trainer(accelerator, state, loss_fn, progress=args.progress)

    start = time.perf_counter()
    trainer.fit(train, epochs=args.epochs, eval_loader=test)
    seconds = time.perf_counter() - start

    accuracy = trainer.evaluate(test)["accuracy"]
    examples_per_second = args.epochs * train.example_count / seconds
    if accelerator.is_main_process:
        print(
            f"{accelerator.backend}: test accuracy {accuracy:.4f}, {examples_per_second:,.0f} examples/s "
            f"({args.epochs} epochs in {seconds:.1f} s, compilation and evaluation included)"
        )
    accelerator.close()
    if args.require_accuracy is not None and accuracy < args.require_accuracy:
        sys.exit(f"test accuracy must be at least {args.require_accuracy}, got {accuracy:.4f}.")


if __name__ == "__main__":
    main(tyro.cli(Args))
