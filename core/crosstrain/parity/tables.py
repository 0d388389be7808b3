"""The verdict on the terminal: one table per recipe, and the sentences below it."""

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from crosstrain.parity.compare import FLOAT64_LIMIT, Comparison, relative_difference
from crosstrain.parity.recipe import Trace
from crosstrain.terminal import plain_console


def shown_steps(count: int) -> list[int]:
    """A few 0-based steps of a run: dense at its start, then doubling, and the last."""
    steps = {0, 1, count - 1}
    step = 4
    while step < count:
        steps.add(step)
        step = step * 2 + 1
    return sorted(step for step in steps if step < count)


def pair_table(title: str, a: Trace, b: Trace) -> Table:
    """Losses and gradient norms of two runs side by side, at a few steps."""
    digits = 15 if a.precision == "fp64" else 7
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in (
        "step",
        f"loss {a.backend}",
        f"loss {b.backend}",
        "rel. difference",
        f"grad norm {a.backend}",
        f"grad norm {b.backend}",
        "rel. difference",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for step in shown_steps(min(len(a.loss), len(b.loss))):
        cells = [str(step + 1)]
        for x, y in ((a.loss[step], b.loss[step]), (a.grad_norm[step], b.grad_norm[step])):
            cells += [f"{x:.{digits}f}", f"{y:.{digits}f}", f"{float(relative_difference(x, y)):.1e}"]
        table.add_row(*cells)
    return table


def outcome_table(comparison: Comparison) -> Table:
    """Final accuracy over seeds and speed of both engines."""
    table = Table(title=f"{comparison.name}: after training, float32", title_justify="left", header_style="bold")
    for column in ("engine", "accuracy of each seed", "mean", "test loss", "examples/s"):
        table.add_column(column, justify="right", no_wrap=True)
    for runs, accuracies in zip(comparison.runs, comparison.accuracies, strict=True):
        table.add_row(
            runs[0].backend,
            "  ".join(f"{value:.4f}" for value in accuracies),
            f"{np.mean(accuracies):.4f}",
            f"{runs[0].evaluation['loss']:.4f}",
            f"{np.median([run.examples_per_s for run in runs]):,.0f}",
        )
    return table


def verdict(comparison: Comparison) -> Text:
    """Two sentences: the float64 check and the accuracies, each with its limit."""
    text = Text()
    steps = len(comparison.checks[0].loss)
    good = comparison.float64_difference <= FLOAT64_LIMIT
    text.append("same algorithm" if good else "NOT THE SAME ALGORITHM", style="bold green" if good else "bold red")
    text.append(
        f": over {steps} float64 steps losses and gradient norms differ by at most "
        f"{comparison.float64_difference:.1e} relative (limit {FLOAT64_LIMIT:.0e})\n"
    )
    good = comparison.accuracy_difference <= comparison.accuracy_limit
    text.append("same result" if good else "NOT THE SAME RESULT", style="bold green" if good else "bold red")
    text.append(
        f": mean accuracies differ by {comparison.accuracy_difference:.4f}, seeds alone make "
        f"{comparison.accuracy_limit:.4f}"
    )
    return text


def comparison_view(comparison: Comparison) -> RenderableType:
    """Everything about one recipe."""
    first, second = comparison.runs
    return Group(
        pair_table(f"{comparison.name}: first steps in float64", *comparison.checks),
        pair_table(f"{comparison.name}: training in float32, seed {first[0].seed}", first[0], second[0]),
        outcome_table(comparison),
        verdict(comparison),
        Text(),
    )


def single_view(name: str, runs: tuple[Trace, ...]) -> RenderableType:
    """One engine's runs, where there is no other to compare with."""
    table = Table(title=f"{name}: {runs[0].backend}, float32", title_justify="left", header_style="bold")
    for column in ("seed", "first loss", "last loss", "test loss", "accuracy", "examples/s"):
        table.add_column(column, justify="right")
    for run in runs:
        table.add_row(
            str(run.seed),
            f"{run.loss[0]:.4f}",
            f"{run.loss[-1]:.4f}",
            f"{run.evaluation['loss']:.4f}",
            f"{run.evaluation['accuracy']:.4f}",
            f"{run.examples_per_s:,.0f}",
        )
    return table


def report_console() -> Console:
    """Where reports are printed: wide enough for the tables also when the output is a file."""
    console = plain_console()
    return console if console.is_terminal else plain_console(width=132)
