"""Super-convergence (Smith and Topin 2017, arXiv:1708.07120) on real images, on both engines, from the same seeds.

    python examples/super_convergence.py
    python examples/super_convergence.py --backend torch --tune
    python examples/super_convergence.py --data cifar-10-batches-bin --width 16

The claim: one cycle up to a large rate, with the momentum against it, is as accurate as a rate that is constant in
pieces, in a fraction of its steps. Three kinds of run for each seed: "pieces" (a tenth of the rate at 50 % and at 75 %
of the run), "pieces, short" in a quarter of the steps, which tells the work of the cycle from steps that were never
needed, and "one cycle" in that quarter, whose peak is read off the range test.

Without `--data` the images are scikit-learn's digits (`pip install 'crosstrain[examples]'`), 360 to learn from, since
the paper finds the most to gain where there is little data, and 1437 to count on. The rates of the pieces were chosen
on held-out fifths of the training images; `--tune` prints such a grid, also for CIFAR-10, whose rates to pass.
Writes table.md, runs.png and range.png to `--out`. With the defaults one cycle comes close, the claim does not hold:
docs/super_convergence.md has the table, and what to make of it.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

import crosstrain as ct
from crosstrain.callbacks import Recorder
from crosstrain.training.figures import new_figure, save

FOLDS = 5
GRID = (0.1, 0.3, 1.0, 3.0)
COLOURS = {"pieces": "#5f6368", "pieces, short": "#1a73e8", "one cycle": "#d93025"}
PIECES, SHORT, CYCLE = COLOURS
LINES = {"jax": "-", "torch": "--"}


@dataclass(frozen=True)
class Args:
    """Compares one cycle with a piecewise constant rate: test accuracies of every seed, a table, a plot, a verdict."""

    backend: Literal["jax", "torch", "both"] = "both"
    """Engine, or both from the same weights and batches."""
    data: Path | None = None
    """Folder of CIFAR-10's binary or python version; None takes scikit-learn's digits."""
    seeds: int = 5
    """Runs of each kind, with seeds 0, 1, ..."""
    epochs: int = 64
    """Passes of the piecewise constant run."""
    fraction: int = 4
    """The short runs take 1 / fraction of those passes."""
    rate: float = 0.1
    """First rate of the piecewise constant run."""
    short_rate: float = 0.3
    """First rate of the short piecewise constant run, which is tuned for itself."""
    peak: float | None = None
    """Peak of the cycle; None takes a tenth of the rate at which the loss of the range test is lowest."""
    form: Literal["fastai", "torch", "smith"] = "fastai"
    """Whose parametrisation of one cycle."""
    batch_size: int = 32
    """Images per optimizer step."""
    weight_decay: float = 5e-4
    """L2 decay, added to the gradients."""
    width: int = 4
    """Channels of ResNet-9's first convolution; the last ones have eight times as many."""
    tune: bool = False
    """Only print the accuracies of a grid of rates on held-out fifths of the training images."""
    quick: bool = False
    """One seed, which gives numbers and no verdict."""
    out: Path = Path("runs/super_convergence")
    """Where table.md, runs.png and range.png are written."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Images to learn from and to count on, and what is done to them."""

    train: Mapping[str, np.ndarray]
    test: Mapping[str, np.ndarray]
    augment: ct.data.Transform | None = None
    prepare: ct.data.Transform | None = None


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One of the three runs that are compared."""

    name: str
    epochs: int
    rate: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run came to: accuracy over all test images, and its curves."""

    accuracy: float
    steps: int
    recorder: Recorder


def main(args: Args) -> None:
    engines = ("jax", "torch") if args.backend == "both" else (args.backend,)
    task = load(args.data)
    if args.tune:
        tune(args, engines[0], task)
        return
    kinds = kinds_of(args, args.peak or range_test(args, engines[0], task))
    seeds = range(1 if args.quick else args.seeds)
    results: dict[tuple[str, str], list[Result]] = {}
    for engine in engines:
        for kind in kinds:
            runs = [train(args, engine, task, kind, seed) for seed in seeds]
            results[engine, kind.name] = runs
            print(
                f"{engine}: {kind.name}, {runs[0].steps} steps:", *(f"{run.accuracy:.4f}" for run in runs), flush=True
            )
    text = table(kinds, results) + "\n" + "".join(f"\n{verdict(engine, results)}\n" for engine in engines)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.md").write_text(text)
    save(draw(results), args.out / "runs.png")
    print(f"\n{text}\nwrote {args.out / 'table.md'}, {args.out / 'runs.png'}")


def load(folder: Path | None) -> Task:
    if folder is None:
        split = ct.data.digits(test_share=0.8)
        return Task(train=split.train, test=split.test)
    split = ct.data.cifar10(folder)
    prepare = ct.data.normalise((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    augment = ct.data.compose(ct.data.random_crop(4), ct.data.flip(), prepare)
    return Task(train=split.train, test=split.test, augment=augment, prepare=prepare)


def kinds_of(args: Args, peak: float) -> tuple[Kind, ...]:
    short = max(args.epochs // args.fraction, 1)
    return (
        Kind(name=PIECES, epochs=args.epochs, rate=args.rate),
        Kind(name=SHORT, epochs=short, rate=args.short_rate),
        Kind(name=CYCLE, epochs=short, rate=peak),
    )


def loss_fn(model, batch, ops):
    logits = model(batch["image"])
    return ops.cross_entropy(logits, batch["label"]), {"accuracy": ops.accuracy(logits, batch["label"])}


def trainer_of(
    args: Args, engine: str, task: Task, seed: int, epochs: int, rate: float, **options
) -> tuple[ct.Trainer, ct.data.Loader]:
    """A trainer whose rate is constant in pieces, and its batches: functions of the seed, the same on both engines."""
    accelerator = ct.Accelerator(engine, seed=seed, precision=options.pop("precision", "fp32"))
    # BatchNorm would count padded images, so the last batch of an epoch, which is short, is left out.
    loader = accelerator.loader(
        task.train, batch_size=args.batch_size, shuffle=True, drop_last=True, transform=task.augment
    )
    _, size, _, channels = task.train["image"].shape
    config = ct.models.ResNet9Config(width=args.width, image_size=size, in_channels=channels)
    steps = len(loader) * epochs
    pieces = ct.multi_step_decay(rate, [steps // 2, steps * 3 // 4])
    state = accelerator.prepare(
        ct.models.build("resnet9", config, accelerator),
        ct.sgd(pieces, momentum=0.9, weight_decay=args.weight_decay),
    )
    return ct.Trainer(accelerator, state, loss_fn, progress=False, **options), loader


def train(args: Args, engine: str, task: Task, kind: Kind, seed: int) -> Result:
    recorder = Recorder()
    trainer, loader = trainer_of(args, engine, task, seed, kind.epochs, kind.rate, callbacks=[recorder])
    test = trainer.accelerator.loader(task.test, batch_size=512, transform=task.prepare)
    if kind.name == CYCLE:
        trainer.fit_one_cycle(loader, kind.epochs, kind.rate, cycle=ct.Cycle(form=args.form), eval_loader=test)
    else:
        trainer.fit(loader, epochs=kind.epochs, eval_loader=test)
    return Result(accuracy=recorder.evaluations[-1].values["accuracy"], steps=trainer.state.step, recorder=recorder)


def range_test(args: Args, engine: str, task: Task) -> float:
    """A tenth of the rate with the lowest loss, in one short run with rates that grow; rounded to two digits.

    In float64, where both engines find the same: a run on its way out magnifies the rounding of float32.
    """
    trainer, loader = trainer_of(args, engine, task, 0, args.epochs, args.rate, precision="fp64")
    curve = trainer.lr_find(loader, ct.RangeTest(start=1e-4, end=100.0))
    curve.plot(args.out / "range.png")
    peak = float(f"{curve.suggestions['minimum']:.2g}")
    print(
        f"{engine}: range test, {len(curve.rates)} steps: a tenth of the rate with the lowest loss is {peak}",
        flush=True,
    )
    return peak


def tune(args: Args, engine: str, task: Task) -> None:
    """Accuracies on fifths of the training images, each held out once; the test images are not looked at."""
    peak = args.peak or range_test(args, engine, task)
    print("\n| run | rate | accuracy on held-out fifths |\n|---|---|---|")
    for kind in kinds_of(args, peak):
        for rate in (kind.rate / 2, kind.rate, kind.rate * 2) if kind.name == CYCLE else GRID:
            found = [
                train(args, engine, fold(task, index), dataclasses.replace(kind, rate=rate), 10 + index).accuracy
                for index in range(FOLDS)
            ]
            print(f"| {kind.name} | {rate:.3g} | {mean_and_sd(found)} |", flush=True)


def fold(task: Task, index: int) -> Task:
    held_out = np.arange(len(task.train["label"])) % FOLDS == index
    return dataclasses.replace(
        task,
        train={name: values[~held_out] for name, values in task.train.items()},
        test={name: values[held_out] for name, values in task.train.items()},
    )


def mean_and_sd(values: Iterable[float]) -> str:
    percent = 100 * np.array(list(values))
    return f"{percent.mean():.2f}" + (f" ± {percent.std(ddof=1):.2f}" if len(percent) > 1 else "")


def table(kinds: Iterable[Kind], results: Mapping[tuple[str, str], list[Result]]) -> str:
    """Test accuracy in percent, mean and standard deviation over the seeds, a column for each engine."""
    engines = list(dict.fromkeys(engine for engine, _ in results))
    lines = [f"| run | steps | rate | {' | '.join(engines)} |", "|---" * (3 + len(engines)) + "|"]
    for kind in kinds:
        runs = [results[engine, kind.name] for engine in engines]
        cells = " | ".join(mean_and_sd(run.accuracy for run in found) for found in runs)
        lines.append(f"| {kind.name} | {runs[0][0].steps} | {kind.rate:g} | {cells} |")
    return "\n".join(lines)


def verdict(engine: str, results: Mapping[tuple[str, str], list[Result]]) -> str:
    """Whether one cycle comes to the accuracy of the long run, and whether the short run without it does not.

    Differences are taken seed by seed. One cycle reaches the long run where the mean difference is not below minus one
    standard error of it, and is above the short run where it is more than two.
    """
    long, short, cycle = (np.array([run.accuracy for run in results[engine, name]]) for name in COLOURS)
    if len(cycle) == 1:
        return f"{engine}: one seed gives no verdict."
    (behind, error), (ahead, its_error) = difference(cycle, long), difference(cycle, short)
    said = f"one cycle - pieces {behind:+.2f} ± {error:.2f}, one cycle - pieces, short {ahead:+.2f} ± {its_error:.2f}"
    if behind < -error:
        return f"{engine}: the claim does not hold here ({said})."
    if ahead <= 2 * its_error:
        return f"{engine}: this shows nothing, the steps were not needed without a cycle either ({said})."
    return f"{engine}: the claim holds here ({said})."


def difference(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Mean of a - b in percent, and its standard error."""
    percent = 100 * (a - b)
    return float(percent.mean()), float(percent.std(ddof=1) / np.sqrt(len(percent)))


def draw(results: Mapping[tuple[str, str], list[Result]]):
    """Rate, momentum and test accuracy over the steps: what was asked for beside what came out."""
    figure = new_figure(12, 3.6)
    rates, momenta, accuracies = figure.subplots(1, 3)
    for (engine, name), runs in results.items():
        style = {"color": COLOURS[name], "linestyle": LINES[engine]}
        recorder = runs[0].recorder
        rates.semilogy(recorder.steps, recorder.rates, **style)
        momenta.plot(recorder.steps, recorder.momenta, **style)
        curves = [run.recorder.curve("accuracy", evaluation=True) for run in runs]
        steps, mean = curves[0][0], np.mean([values for _, values in curves], axis=0)
        accuracies.plot(steps, 100 * mean, label=f"{name}, {engine}", **style)
    rates.set(title="learning rate")
    momenta.set(title="momentum")
    accuracies.set(title=f"test accuracy, mean of {len(runs)}", ylim=(80, 100), ylabel="percent")
    accuracies.legend(fontsize="small")
    for axes in (rates, momenta, accuracies):
        axes.set_xlabel("optimizer step")
        axes.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    main(tyro.cli(Args))
