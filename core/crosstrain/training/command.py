"""`crosstrain lr-find train.py`: the learning-rate range test of a training script.

The script defines, at its top level, `build_trainer(backend)`, which returns a `Trainer` and the loader it trains on:

    def build_trainer(backend):                 # the name given with --backend, or None
        accelerator = ct.Accelerator(backend)
        ...
        return ct.Trainer(accelerator, state, loss_fn), loader

    if __name__ == "__main__":
        trainer, loader = build_trainer("jax")
        trainer.fit_one_cycle(loader, 5, max_lr=3e-3)
"""

from pathlib import Path
from typing import Any

from crosstrain.data.loader import Loader
from crosstrain.data.phases import Batches, PhasedLoader
from crosstrain.errors import ConfigError
from crosstrain.scripts import load_script
from crosstrain.terminal import plain_console
from crosstrain.trainer import Trainer
from crosstrain.training.figures import require_image
from crosstrain.training.lr_find import RangeTest


def lr_find(
    script: Path,
    /,
    backend: str | None = None,
    start: float = 1e-7,
    end: float = 10.0,
    steps: int = 100,
    out: Path = Path("runs/lr_find.png"),
) -> int:
    """Trains with rates that grow at every step until the loss leaves, and suggests a learning rate.

    Args:
        script: a Python file that defines `build_trainer(backend)`; see `help(crosstrain.training.command)`.
        backend: the engine; by default the installed one.
        start: the first rate.
        end: the last rate.
        steps: how many, at most.
        out: where the plot is written.
    """
    require_image(out)
    test = RangeTest(start=start, end=end, steps=steps)
    trainer, loader = read_trainer(script, backend)
    curve = trainer.lr_find(loader, test)
    if trainer.accelerator.is_main_process:
        console = plain_console()
        console.print(curve.text(width=max(min(console.width, 100) - 12, 20)), highlight=False)
        curve.plot(out)
        console.print(f"wrote {out}", highlight=False)
    return 0


def read_trainer(script: Path, backend: str | None) -> tuple[Trainer, Batches]:
    """What a script's `build_trainer` returns.

    Raises:
        ConfigError: no such function, or one that returns something else.
    """
    module = load_script(script, "the script")
    build = getattr(module, "build_trainer", None)
    if not callable(build):
        raise ConfigError(
            f"{script.name} must define build_trainer(backend), got a file without. "
            "See `help(crosstrain.training.command)` for a template."
        )
    found: Any = build(backend)
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], Trainer)):
        raise ConfigError(f"build_trainer must return (trainer, loader), got {type(found).__name__} in {script.name}.")
    if not isinstance(found[1], Loader | PhasedLoader):
        raise ConfigError(
            f"build_trainer must return a loader of accelerator.loader second, got {type(found[1]).__name__}."
        )
    return found[0], found[1]
