"""`Snapshot`: a state's arrays on the host, under canonical names, and the checks before they are put back."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from crosstrain.errors import ConfigError

_MOMENTS = "moments/"


Readers = Mapping[str, tuple[tuple[int, ...], Callable[[], np.ndarray]]]
"""Name -> shape, and what reads the array."""


class LazyArrays(Mapping[str, np.ndarray]):
    """Arrays that are read one by one, when asked for, and not kept: a model need not fit into host memory twice.

    Args:
        readers: name -> (shape, function that reads the array).
    """

    def __init__(self, readers: Readers) -> None:
        self._readers = readers

    def __getitem__(self, name: str) -> np.ndarray:
        return self._readers[name][1]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array, without reading it."""
        return self._readers[name][0]


def shape_of(arrays: Mapping[str, np.ndarray], name: str) -> tuple[int, ...]:
    """The shape of an array, without reading it where that can be helped."""
    return arrays.shape(name) if isinstance(arrays, LazyArrays) else tuple(arrays[name].shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A copy of a `TrainState` on the host that no later step changes.

    Attributes:
        step: how many optimizer steps the state had taken.
        params: canonical name -> value, canonical layout, in the type of the parameter, bfloat16 as float32.
            `load` also takes arrays of a framework, such as those of a torch state dict.
        buffers: the same for what is not trained but belongs to the model (running statistics).
        moments: slot (`momentum`, `first_moment`, `second_moment`, ...) -> canonical name -> value; a slot covers the
            parameters that have such a moment.
        averages: the averaged weights, where the state keeps an average.
        native: what only one engine has, under names that begin with that engine's: random keys of the user's own
            layers, counters. The other engine leaves it out.
    """

    step: int
    params: Mapping[str, np.ndarray]
    buffers: Mapping[str, np.ndarray]
    moments: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    averages: Mapping[str, np.ndarray] = field(default_factory=dict)
    native: Mapping[str, np.ndarray] = field(default_factory=dict)

    def sections(self) -> dict[str, Mapping[str, np.ndarray]]:
        """`params`, `buffers`, `averages`, `moments/SLOT` and `native` -> arrays, in this order."""
        moments = {f"{_MOMENTS}{slot}": values for slot, values in self.moments.items()}
        return {
            "params": self.params,
            "buffers": self.buffers,
            "averages": self.averages,
            **moments,
            "native": self.native,
        }

    @classmethod
    def from_sections(cls, step: int, sections: Mapping[str, Mapping[str, np.ndarray]]) -> "Snapshot":
        """The snapshot with these `sections`; one that is not there is empty."""
        moments = {name: values for name, values in sections.items() if name.startswith(_MOMENTS)}
        return cls(
            step=step,
            params=sections["params"],
            buffers=sections.get("buffers", {}),
            moments={name.removeprefix(_MOMENTS): values for name, values in moments.items()},
            averages=sections.get("averages", {}),
            native=sections.get("native", {}),
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """`SECTION/NAME` -> shape, of all sections but `native`; reads nothing that is read lazily."""
        shared = {section: arrays for section, arrays in self.sections().items() if section != "native"}
        return {f"{section}/{name}": shape_of(arrays, name) for section, arrays in shared.items() for name in arrays}

    def copy(self) -> "Snapshot":
        """With all arrays in memory."""
        return Snapshot.from_sections(self.step, {name: dict(arrays) for name, arrays in self.sections().items()})


def check_slots(kept: Mapping[str, Mapping[str, tuple[int, ...]]], snapshot: Snapshot) -> None:
    """Refuses the moments of an optimizer that keeps others; `kept` has their shapes.

    Raises:
        ConfigError: says which are missing, and how to take over the rest.
    """
    missing = sorted(set(kept) - set(snapshot.moments))
    if snapshot.moments and missing:
        raise ConfigError(
            f"the snapshot's moments must be those of this state's optimizer, missing: {', '.join(missing)}, "
            f"got {', '.join(sorted(snapshot.moments))}. "
            "To take over all but the moments: state.load(dataclasses.replace(snapshot, moments={}))."
        )
    for slot, shapes in kept.items():
        if snapshot.moments:
            check_names(slot, shapes, snapshot.moments[slot])


def check_names(what: str, expected: Mapping[str, tuple[int, ...]], given: Mapping[str, np.ndarray]) -> None:
    """Refuses a snapshot whose names or shapes differ from the model's.

    Raises:
        ConfigError: names which differences there are.
    """
    missing = sorted(set(expected) - set(given))
    unknown = sorted(set(given) - set(expected))
    if missing or unknown:
        raise ConfigError(
            f"the snapshot's {what} must be those of this model, missing: {_some(missing)}, unknown: {_some(unknown)}. "
            "Load it into the model that it was taken from."
        )
    for name, shape in expected.items():
        found = shape_of(given, name)
        if found != shape:
            raise ConfigError(
                f"{name} must have shape {shape}, got {found} in the snapshot's {what}. "
                "The model's configuration differs from the one the snapshot was taken from."
            )


def check_shapes(expected: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses arrays of another model or optimizer, by `Snapshot.shapes`.

    Raises:
        ConfigError: names which differences there are.
    """
    both = [name for name in expected if name in given]
    wrong = [f"{name} {given[name]} for {expected[name]}" for name in both if given[name] != expected[name]]
    missing, unknown = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    if wrong or missing or unknown:
        raise ConfigError(
            "the arrays must be those of this model and optimizer, "
            f"missing: {_some(missing)}, unknown: {_some(unknown)}, of another shape: {_some(wrong)}."
        )


def _some(names: list[str], limit: int = 5) -> str:
    shown = ", ".join(names[:limit]) or "none"
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
