"""Figures of training: the curve of a range test, and what a recorder wrote down. matplotlib is loaded when asked."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crosstrain.errors import ConfigError, CrosstrainError, require_folder

if TYPE_CHECKING:
    from crosstrain.callbacks.recorder import Recorder
    from crosstrain.training.lr_find import RangeCurve

_COLOURS = {"valley": "#188038", "steep": "#e8710a", "minimum": "#d93025"}


def draw_range(curve: "RangeCurve") -> Any:
    """Smoothed loss over the rate, with every suggestion.

    Raises:
        CrosstrainError: matplotlib is not installed.
    """
    figure = new_figure(8, 4.5)
    axes = figure.subplots()
    axes.semilogx(curve.rates, curve.losses, color="#1a73e8", alpha=0.25, label="loss")
    axes.semilogx(curve.rates, curve.smoothed, color="#1a73e8", label="smoothed")
    finite = curve.smoothed[np.isfinite(curve.smoothed)]
    for name, rate in curve.suggestions.items():
        loss = np.interp(np.log(rate), np.log(curve.rates), curve.smoothed)
        axes.plot([rate], [loss], "o", color=_COLOURS[name], label=f"{name} {rate:.2e}")
    first = finite[min(curve.skip, len(finite) - 1)]
    axes.set(xlabel="learning rate", ylabel="loss", ylim=(None, first + 0.5 * (first - finite.min()) + 1e-12))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def draw_record(recorder: "Recorder") -> Any:
    """Rate, momentum and losses over the steps of a run.

    Raises:
        CrosstrainError: matplotlib is not installed.
    """
    figure = new_figure(14, 4)
    panels = figure.subplots(1, 3)
    for axes, name, values in zip(
        panels, ("learning rate", "momentum"), (recorder.rates, recorder.momenta), strict=False
    ):
        axes.plot(recorder.steps, values, color="#1a73e8")
        axes.set(title=name, xlabel="optimizer step")
    panels[2].plot(*recorder.curve("loss"), color="#1a73e8", label="training")
    if recorder.evaluations:
        panels[2].plot(*recorder.curve("loss", evaluation=True), "o-", color="#e8710a", label="evaluation")
    panels[2].set(title="loss", xlabel="optimizer step")
    panels[2].legend()
    for axes in panels:
        axes.grid(alpha=0.3)
    return figure


def new_figure(width: float, height: float) -> Any:
    """An empty figure of so many inches that needs no display.

    Raises:
        CrosstrainError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise CrosstrainError("a plot needs matplotlib. Run: pip install 'crosstrain[examples]'.") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def require_image(path: Path | str) -> None:
    """Refuses a path to which no figure can be written.

    Raises:
        ConfigError: a folder, an ending that stands for no kind of image, or a file where its folder should be.
        CrosstrainError: matplotlib is not installed.
    """
    endings = sorted(new_figure(1, 1).canvas.get_supported_filetypes())
    if Path(path).is_dir() or Path(path).suffix[1:].lower() not in endings:
        raise ConfigError(f"a plot must be a file that ends in .{', .'.join(endings)}, got {path}. Use {path}.png.")
    require_folder("the folder of a plot", Path(path).parent)


def save(figure: Any, path: Path | str) -> None:
    """Writes a figure; the directory is made when it is not there.

    Raises:
        ConfigError: as `require_image`.
    """
    require_image(path)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
