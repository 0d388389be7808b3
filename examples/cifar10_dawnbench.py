"""94 % on CIFAR-10 the way DAWNBench was won, on the engine you pick, with later tricks behind flags.

    python examples/cifar10_dawnbench.py --backend jax --data DIR --precision bf16
    python examples/cifar10_dawnbench.py --backend torch --data DIR --whitening 3 --alternating-flip
    python examples/cifar10_dawnbench.py --backend torch --data digits

The base is David Page's entry of 2018 (github.com/davidcpage/cifar10-fast): ResNet-9, Nesterov momentum, one cycle,
crops, flips and cutout. He adds up the loss over a batch, divides the rate by the batch and multiplies the decay of
5e-4 by it; the loss here is a mean, for which the same update has neither factor. docs/dawnbench.md says where each
trick is from. Without the files of CIFAR-10 it says which it needs and ends with exit status 2. `--data digits` runs
the recipe on scikit-learn's digits (`pip install 'crosstrain[examples]'`), each pixel as 2 x 2, three equal channels.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

import crosstrain as ct

MISSING = """{error}

CIFAR-10 must lie in --data, got --data {folder}. Put these six files of 30,730,000 bytes each there:

    data_batch_1.bin  data_batch_2.bin  data_batch_3.bin  data_batch_4.bin  data_batch_5.bin  test_batch.bin

They are in cifar-10-binary.tar.gz, from https://www.cs.toronto.edu/~kriz/cifar.html:

    mkdir -p {folder} && tar xzf cifar-10-binary.tar.gz -C {folder}

The folder cifar-10-batches-bin that this makes is found there. So are the six files of cifar-10-python.tar.gz, which
have the same names without .bin. --data digits runs the recipe without any of them."""
RATES = {"sgd": 0.4, "muon": 0.02}
CIFAR10, DIGITS = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)), ((0.3053,) * 3, (0.3761,) * 3)
"""Mean and standard deviation of the training images, per channel."""


@dataclass(frozen=True)
class Args:
    """Trains a ResNet-9 on CIFAR-10 and prints accuracy, time and cost."""

    backend: Literal["jax", "torch"] | None = None
    """Engine; None takes the one that is installed."""
    data: str = "data"
    """Folder of CIFAR-10's files, or `digits`."""
    epochs: int = 24
    """Passes over the training images."""
    batch_size: int = 512
    """Images per optimizer step."""
    width: int = 64
    """Channels of the first convolution; the last ones have eight times as many."""
    precision: Literal["fp32", "bf16", "fp64"] = "fp32"
    """Types of weights and compute; bf16 keeps weights, norms and losses in float32."""
    optimizer: Literal["sgd", "muon"] = "sgd"
    """Nesterov SGD, or Muon for convolutions and head with AdamW for the rest."""
    learning_rate: float | None = None
    """Peak of the one cycle; None takes 0.4 for sgd, 0.02 for muon."""
    pct_start: float = 0.2
    """Share of the run in which the rate goes up."""
    weight_decay: float = 5e-4
    """Coupled for sgd, decoupled for muon."""
    label_smoothing: float = 0.2
    """Share of the target that is spread over all classes."""
    alternating_flip: bool = False
    """Mirror every image in every other epoch instead of at random (airbench)."""
    whitening: int = 0
    """Side of the patches that a frozen first convolution whitens, 2 or 3; 0 for none (Page, hlb-CIFAR10, airbench)."""
    lookahead: bool = False
    """Go back half of the way every five steps (Zhang et al. 2019)."""
    progressive: bool = False
    """Train the first half of the epochs on images of three quarters of the side."""
    tta: Literal["none", "mirror", "translate"] = "translate"
    """Views that the last predictions are averaged over: the mirror image; also both moved by a pixel (airbench)."""
    transform_on: Literal["host", "device"] = "host"
    """Where images are augmented; on the device they also stay there. The batches are the same."""
    seed: int = 0
    """Decides initial weights, data order and augmentation, the same on both engines."""
    target: float = 0.94
    """Test accuracy whose first epoch is named at the end."""
    price_per_hour: float = 0.0
    """Of the machine, in whatever you pay with."""
    progress: bool = False
    """Show a progress bar when the output is a terminal."""

    @property
    def peak(self) -> float:
        """The learning rate where it is highest."""
        return RATES[self.optimizer] if self.learning_rate is None else self.learning_rate


class Report(ct.Callback):
    """Prints a line after every epoch, and counts the time outside of evaluations."""

    def __init__(self, args: Args) -> None:
        self._args, self._since = args, time.perf_counter()
        self.seconds, self.reached = 0.0, ""

    def on_evaluate_begin(self, run: ct.callbacks.Run) -> None:
        """Training is over when the devices are done with it."""
        run.trainer.accelerator.synchronize()
        self.seconds += time.perf_counter() - self._since

    def on_evaluate_end(self, run: ct.callbacks.Run, record: ct.callbacks.Record) -> None:
        """The clock goes on after this."""
        accuracy, epoch = record.values["accuracy"], run.epoch + 1
        if run.is_main_process:
            loss = run.trainer.history.values("loss")[-1]
            print(f"epoch {epoch:3d}  train loss {loss:.4f}  test accuracy {accuracy:.4f}  {self.cost()}", flush=True)
        if accuracy >= self._args.target and not self.reached:
            self.reached = f"{self._args.target:.2%} reached after epoch {epoch}, {self.cost()}"
        self._since = time.perf_counter()

    def cost(self) -> str:
        """Time so far, and what it costs."""
        price = self._args.price_per_hour * self.seconds / 3600
        return f"{self.seconds:.1f} s" + (f", cost {price:.4f}" if self._args.price_per_hour else "")


def read(data: str) -> ct.data.Split:
    """Bytes, (N, H, W, 3): CIFAR-10, or the digits with every pixel as 2 x 2 in three equal channels."""
    if data != "digits":
        try:
            return ct.data.cifar10(data)
        except ct.DataError as error:
            print(MISSING.format(error=error, folder=Path(data)), file=sys.stderr)
            sys.exit(2)
    parts = []
    for part in ct.data.digits():
        images = part["image"]
        grey = np.rint((images - images.min()) * (255 / np.ptp(images))).astype(np.uint8)
        parts.append({"image": grey.repeat(2, axis=1).repeat(2, axis=2).repeat(3, axis=3), "label": part["label"]})
    return ct.data.Split(*parts)


def training_loader(args: Args, accelerator: ct.Accelerator, split: ct.data.Split, normalise: ct.data.Transform):
    """Shuffled and augmented, at one size, or at two that follow each other."""
    full = split.train["image"].shape[1]
    flip = ct.data.alternating_flip() if args.alternating_flip else ct.data.flip()
    source = accelerator.resident(split.train) if args.transform_on == "device" else split.train

    def make(size: int, _: int) -> ct.data.Loader:
        augment = (ct.data.random_crop(size // 8), flip, normalise, ct.data.cutout(size // 4))
        return accelerator.loader(
            source,
            batch_size=args.batch_size,  # one for all sizes, which the rates are for
            shuffle=True,
            drop_last=True,  # BatchNorm would count padded images
            transform=ct.data.compose(*[ct.data.resize(size)] * (size < full), *augment),
            transform_on=args.transform_on,
        )

    small = args.epochs // 2 if args.progressive else 0
    phases = [ct.data.Phase(epochs=args.epochs - small, size=full)]
    if small:
        phases.insert(0, ct.data.Phase(epochs=small, size=full * 3 // 4))
    return ct.data.progressive(make, phases, batch_size=args.batch_size)


def prepare(args: Args, accelerator: ct.Accelerator, images: np.ndarray) -> ct.TrainState:
    """The model and its optimizer; `images` are normalised ones, for the filters that whiten them."""
    config = ct.models.ResNet9Config(width=args.width, image_size=None, whitening=args.whitening)
    filters = {"whiten.weight": ct.data.whitening_filters(images, args.whitening)} if args.whitening else {}
    make = {"sgd": ct.sgd, "muon": ct.muon}[args.optimizer]
    optimizer = make(args.peak, momentum=0.9, nesterov=True, weight_decay=args.weight_decay)
    model = ct.models.build("resnet9", config, accelerator, weights=filters)
    state = accelerator.prepare(model, optimizer, average=ct.lookahead() if args.lookahead else None)
    if args.whitening:
        state.freeze("^whiten")
    return state


def main(args: Args) -> None:
    split = read(args.data)
    mean, std = DIGITS if args.data == "digits" else CIFAR10
    accelerator = ct.Accelerator(args.backend, precision=args.precision, seed=args.seed)
    train = training_loader(args, accelerator, split, ct.data.normalise(mean, std))

    def test(*view: ct.data.Transform) -> ct.data.Loader:
        transform = ct.data.compose(ct.data.normalise(mean, std), *view)
        return accelerator.loader(split.test, batch_size=500, transform=transform)

    def logits_fn(model, batch, ops):
        return model(batch["image"])

    def loss_fn(model, batch, ops):
        logits = logits_fn(model, batch, ops)
        loss = ops.cross_entropy(logits, batch["label"], label_smoothing=args.label_smoothing)
        return loss, {"accuracy": ops.accuracy(logits, batch["label"])}

    report = Report(args)  # whitening and compiling are timed, reading the files is not
    state = prepare(args, accelerator, (split.train["image"][:5000] / 255 - mean) / std)
    trainer = ct.Trainer(accelerator, state, loss_fn, log_every=len(train), callbacks=[report], progress=args.progress)
    cycle = ct.Cycle(pct_start=args.pct_start, momentum=None)
    trainer.fit_one_cycle(train, args.epochs, args.peak, cycle=cycle, eval_loader=test())

    plain = trainer.evaluate(test())["accuracy"]
    summary = f"{args.epochs} epochs, {report.cost()}, test accuracy {plain:.4f}"
    if args.tta != "none":
        views = ct.data.views(test, pixels=1 if args.tta == "translate" else 0)
        logits = trainer.predict(views, logits_fn)["prediction"]
        summary += f", with views {np.mean(logits.argmax(1) == split.test['label']):.4f}"
    if accelerator.is_main_process:
        print(f"{accelerator.backend}: {summary}; {report.reached or f'{args.target:.2%} not reached'}")
    accelerator.close()


if __name__ == "__main__":
    main(tyro.cli(Args))
