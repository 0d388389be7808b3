"""The text of a card: model, results, settings, epochs, machine, and how to load what was saved."""

import json
import platform
from collections.abc import Mapping
from typing import Any

from crosstrain._version import __version__
from crosstrain.cards.facts import CardFacts, EpochRow, Value
from crosstrain.cards.markdown import code, number, table
from crosstrain.cards.metadata import front_matter
from crosstrain.cards.spec import CardSpec
from crosstrain.precision import PRESETS, Precision

MARK = (
    "<!-- Written by crosstrain, and anew at the end of the next run. Take this line out to keep what you change. -->"
)
NO_PLOTS = "Plots need matplotlib: `pip install 'crosstrain[examples]'`."
_ENGINE = ("backend", "environment")
_PLAIN = ("model.type", "precision.type", "step.type")  # classes that say nothing


def render(facts: CardFacts, spec: CardSpec, name: str, image: str | None) -> str:
    """The whole file.

    Args:
        facts: of the run.
        spec: what only people know.
        name: the title.
        image: name of the plots' file beside the card; None when there is none.
    """
    plots = NO_PLOTS if image is None else f"![Learning rate, momentum and loss over the optimizer steps]({image})"
    parts = [
        front_matter(facts, spec, name),
        MARK,
        f"# {' '.join(name.split())}",
        spec.description.strip(),
        _result(facts),
        f"## Model\n\n{_model(facts)}",
        f"## Training\n\n{' '.join(facts.notes)}",
        _settings(_training(facts.settings)),
        f"### Epochs\n\n{_epochs(facts.epochs)}",
        plots,
        f"## Engine, machine and time\n\n{_settings(_machine(facts))}",
        f"## Loading\n\n{_loading(facts, spec)}",
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _result(facts: CardFacts) -> str:
    row = facts.result
    if row is None:
        return "It was not evaluated."
    values = ", ".join(f"{name} {number(row.evaluation[name])}" for name in _ordered([row.evaluation]))
    later = "" if row.step == facts.step else f" The weights are those of step {facts.step}."
    return f"Evaluation after optimizer step {row.step}: {values}.{later}"


def _model(facts: CardFacts) -> str:
    count = f"{facts.settings['parameter_count']:,} parameters"
    if facts.config is None:
        said = f"A {code(facts.model)} of the training script, with {count}."
    else:
        said = f"{code(facts.config.kind)}, a paired model of crosstrain, with {count}."
    settings = _section(facts.settings, "model")
    return f"{said}\n\n{_settings(settings)}" if settings else said


def _training(settings: Mapping[str, Value]) -> dict[str, Value]:
    apart = (*_ENGINE, "model", "parameter_count", "mesh")
    found = {name: value for name, value in settings.items() if name.partition(".")[0] not in apart}
    found = {name.removesuffix(".type"): found[name] for name in found if name not in _PLAIN}
    split = [f"{axis} {size}" for axis, size in _section(settings, "mesh").items() if size != 1]
    return {**found, "mesh": ", ".join(split) or "one device"}


def _machine(facts: CardFacts) -> dict[str, Value]:
    found = {"engine": facts.settings["backend"], **_section(facts.settings, "environment")}
    found |= {
        "crosstrain": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    return found if facts.seconds is None else {**found, "time of training": f"{facts.seconds:.1f} s"}


def _section(settings: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    own = {name: value for name, value in settings.items() if name.startswith(f"{prefix}.") and name not in _PLAIN}
    return {name.removeprefix(f"{prefix}."): value for name, value in own.items()}


def _settings(values: Mapping[str, Value]) -> str:
    """What is off or empty is left out."""
    return table(("setting", "value"), ((code(k), code(v)) for k, v in values.items() if v not in (None, "", "()")))


def _epochs(rows: tuple[EpochRow, ...]) -> str:
    if not rows:
        return "Nothing was logged."
    speed = "examples_per_second"
    train = [name for name in _ordered([row.train for row in rows]) if name != speed]
    evaluation = _ordered([row.evaluation for row in rows])
    columns = ["epoch", "step", *(f"training {name}" if name != "learning_rate" else "learning rate" for name in train)]
    columns += [f"evaluation {name}" for name in evaluation] + ["examples per second", "seconds"]
    lines = []
    for row in rows:
        values = [row.train.get(name) for name in train] + [row.evaluation.get(name) for name in evaluation]
        values += [row.train.get(speed), row.seconds]
        lines.append([f"{row.epoch + 1}", f"{row.step}", *("" if each is None else number(each) for each in values)])
    said = "Of the logged steps of an epoch: means, the last learning rate, and the median of the examples per second."
    return f"{said}\n\n{table(columns, lines, numbers=True)}"


def _ordered(values: list[Mapping[str, float]]) -> list[str]:
    """All names: the loss, then by the alphabet, for engines return them in different orders; the rate last."""
    names = {name for each in values for name in each}
    return sorted(names, key=lambda name: (name != "loss", name == "learning_rate", name))


def _loading(facts: CardFacts, spec: CardSpec) -> str:
    parts = []
    if spec.portable is not None:
        parts.append(_portable(facts, f"{spec.portable}"))
    if facts.checkpoints is not None:
        parts.append(_native(facts, facts.checkpoints))
    return "\n\n".join(parts) or (
        "The run saved no checkpoint. `accelerator.export(state, path)` writes one that either engine restores."
    )


def _portable(facts: CardFacts, path: str) -> str:
    own = facts.config is None
    state = "accelerator.prepare(model, optimizer)  # as in the training script"
    lines = [f"state = {state}", f"accelerator.restore({json.dumps(path)}, state)"] if own else []
    lines = lines or [f"state = accelerator.restore({json.dumps(path)})"]
    return _python("A portable checkpoint, on either engine:", facts, lines)


def _native(facts: CardFacts, root: str) -> str:
    config = facts.config
    lines = [] if config is None else [f'model = ct.models.build("{config.kind}", ct.models.{config!r}, accelerator)']
    lines += [
        "state = accelerator.prepare(model, optimizer)  # as in the training script",
        f"Checkpoints(accelerator, {json.dumps(root)}).restore(state)",
    ]
    said = 'The newest checkpoint of the run, on the engine that wrote it (`resume="auto"` of `fit` goes on from it):'
    return _python(said, facts, lines, "from crosstrain.checkpoint import Checkpoints")


def _python(said: str, facts: CardFacts, lines: list[str], *imports: str) -> str:
    made = f'accelerator = ct.Accelerator("{facts.settings["backend"]}"{_precision(facts.settings)})'
    first = ["import crosstrain as ct", *imports, "", made]
    return "\n".join([said, "", "```python", *first, *lines, "```"])


def _precision(settings: Mapping[str, Value]) -> str:
    """As an argument, where it is not the default."""
    values: dict[str, Any] = _section(settings, "precision")
    precision = Precision(**values)
    if precision == Precision():
        return ""
    names = [name for name, preset in PRESETS.items() if preset == precision]
    return f", precision={json.dumps(names[0]) if names else f'ct.{precision!r}'}"
