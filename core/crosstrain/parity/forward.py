"""Two forward passes, event by event: which module, or which operation between two modules, is the first to differ."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from crosstrain.parity import causes
from crosstrain.parity.findings import tensor_difference
from crosstrain.probe import Event, Probe


class Origin(NamedTuple):
    """A place at which a forward pass goes another way.

    Attributes:
        where: the module, or `between A and B`.
        difference: of the first value that differs.
        cause: in words.
    """

    where: str
    difference: float
    cause: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Forward:
    """What two forward passes have in common, measured.

    Attributes:
        order: the modules that both enter and leave, in the order of execution.
        inputs: module path -> largest relative difference of its inputs.
        outputs: module path -> relative difference of its output, in the order in which modules are left.
    """

    order: tuple[Event, ...]
    inputs: Mapping[str, float]
    outputs: Mapping[str, float]

    def measured(self, event: Event) -> float:
        """The difference at an event."""
        return (self.inputs if event.kind == "input" else self.outputs)[event.module]


def compare_forward(x: Probe, y: Probe) -> Forward:
    """Measures inputs and outputs of the modules that both sides run.

    Args:
        x: the reference.
        y: the other side.
    """
    apart = _called_otherwise(x, y)
    inputs = {
        name: max(_input_differences(values, y.inputs[name]))
        for name, values in x.inputs.items()
        if values and y.inputs.get(name) and _path(name) not in apart
    }
    common = [name for name in _common(x, y) if _path(name) not in apart]
    outputs = {name: tensor_difference(x.activations[name], y.activations[name]) for name in common}
    # Compiled engines may not know the order of what runs inside a loop; the side that knows more has it.
    order = max((_known(probe, inputs, outputs) for probe in (x, y)), key=len)
    left = [event.module for event in order if event.kind == "output"]
    rest = [name for name in outputs if name not in left]
    return Forward(order=order, inputs=inputs, outputs={name: outputs[name] for name in [*left, *rest]})


def resized(forward: Forward, x: Probe, y: Probe, limit: float) -> frozenset[str]:
    """Modules that are given more numbers on one side, and return the same: padded before it, or by it."""
    return frozenset(
        name
        for name in forward.inputs
        if x.inputs[name][0].size != y.inputs[name][0].size and forward.outputs.get(name, np.inf) <= limit
    )


def origins(forward: Forward, x: Probe, y: Probe, limit: float, padded: frozenset[str]) -> list[Origin]:
    """The places at which the two part, in the order of execution; what only follows from them is left out.

    An input that differs, right after a value that agrees, comes from an operation between two modules. An output
    that differs, although the module's inputs and everything inside it agree, comes from the module itself. An input
    of another size is no difference where the output agrees: `padded` are the modules that `resized` gives.
    """
    found = []
    bad = [
        not forward.measured(event) <= limit and not (event.kind == "input" and event.module in padded)
        for event in forward.order
    ]
    for index, event in enumerate(forward.order):
        entered = _entered(forward.order, index)
        before = bad[index - 1 : index] if event.kind == "input" else bad[entered:index]
        if bad[index] and not any(before):
            found.append(_origin(forward, index, entered, x, y))
    return found


def backward_order(names: Sequence[str], order: Sequence[Event]) -> list[str]:
    """Parameters in the order in which a backward pass reaches them: of the layer that runs last first.

    Parameters of a layer that is not seen, or of a module with layers inside, count as used when it is entered.
    """
    entered = [event.module for event in order if event.kind == "input"]
    return sorted(names, key=lambda name: _position(name, entered), reverse=True)


def _position(name: str, entered: Sequence[str]) -> int:
    owner = name
    while owner:
        owner = owner.rpartition(".")[0]
        if owner in entered:
            return entered.index(owner)
    return -1


def _common(x: Probe, y: Probe) -> list[str]:
    return [name for name in x.activations if name in y.activations]


def _called_otherwise(x: Probe, y: Probe) -> frozenset[str]:
    """Modules with more calls of smaller arrays on one side, such as a cell for each step of a sequence."""
    x_calls, y_calls = (Counter(_path(name) for name in probe.activations) for probe in (x, y))
    return frozenset(
        path
        for path in x_calls.keys() & y_calls.keys()
        if x_calls[path] != y_calls[path] and x.activations[path].size != y.activations[path].size
    )


def _path(call: str) -> str:
    return call.partition("#")[0]


def _known(probe: Probe, inputs: Mapping[str, float], outputs: Mapping[str, float]) -> tuple[Event, ...]:
    return tuple(event for event in probe.order if event.module in (inputs if event.kind == "input" else outputs))


def _input_differences(x: Sequence[np.ndarray], y: Sequence[np.ndarray]) -> Iterator[float]:
    """Of each input that both have; those after the first may mean something else where they have another shape."""
    for index, (a, b) in enumerate(zip(x, y, strict=False)):
        if index == 0 or a.shape == b.shape:
            yield tensor_difference(a, b)


def _entered(order: Sequence[Event], index: int) -> int:
    """Where the module that is left at `index` was entered, or else its first event; `index` for an input."""
    event = order[index]
    if event.kind == "input":
        return index
    inside = [i for i in range(index) if order[i].module == event.module or _within(order[i].module, event.module)]
    entered = [i for i in inside if order[i] == Event("input", event.module)]
    return entered[0] if entered else min(inside, default=index)


def _within(inner: str, outer: str) -> bool:
    return inner.startswith(f"{outer}.") if outer else inner != ""


def _origin(forward: Forward, index: int, entered: int, x: Probe, y: Probe) -> Origin:
    event, difference = forward.order[index], forward.measured(forward.order[index])
    before = forward.order[index - 1] if index else None
    if event.kind == "input":
        pairs = zip(x.inputs[event.module], y.inputs[event.module], strict=False)
        a, b = max(pairs, key=lambda pair: tensor_difference(*pair) if pair[0].shape == pair[1].shape else 0.0)
        return Origin(_between(before, event.module), difference, causes.between(a, b))
    cause = causes.between(x.activations[event.module], y.activations[event.module])
    name = event.module or "(model)"
    if before is not None and before.kind == "output" and _within(before.module, event.module):
        return Origin(f"{name}, after {before.module}", difference, f"all inside it agrees: {cause}")
    if entered == index and before is not None:  # nothing is known of its input
        return Origin(f"{name}, or between {before.module or '(model)'} and it", difference, cause)
    return Origin(name, difference, f"its input agrees: {cause}" if entered != index else cause)


def _between(before: Event | None, module: str) -> str:
    if before is None:
        return f"before {module or '(model)'}"
    start = before.module or "(model)"
    return f"between {'the input of ' if before.kind == 'input' else ''}{start} and {module or '(model)'}"
