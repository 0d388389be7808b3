"""`Metrics`: what a step reports. The values stay on the device until somebody reads one."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np


class Metrics(Mapping[str, float]):
    """Names and values of one step, a read-only mapping.

    The engine hands over one small device array for all of them; the first read copies it to the host and waits
    for the step to finish, so read only when you log.
    """

    __slots__ = ("_fetch", "_host", "_known", "_names", "_values")

    def __init__(
        self,
        names: tuple[str, ...],
        values: Any,
        fetch: Callable[[Any], np.ndarray],
        known: Mapping[str, float] | None = None,
    ) -> None:
        """Wraps a device array.

        Args:
            names: one name for each row of `values`.
            values: device array of shape (len(names), 2): weighted sum and weight of each metric.
            fetch: copies `values` to the host.
            known: metrics whose values the host knows already, such as the learning rate.
        """
        self._names = names
        self._values = values
        self._fetch = fetch
        self._known = known or {}
        self._host: np.ndarray | None = None

    def sums(self) -> np.ndarray:
        """Weighted sums and weights on the host, float64, shape (number of device metrics, 2). Waits."""
        if self._host is None:
            self._host = np.asarray(self._fetch(self._values), dtype=np.float64)
        return self._host

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the device metrics, in the order of `sums`."""
        return self._names

    def __getitem__(self, name: str) -> float:
        if name in self._known:
            return self._known[name]
        if name not in self._names:
            raise KeyError(f"no metric {name!r} in this step; it has {', '.join(self)}")
        total, weight = self.sums()[self._names.index(name)]
        return float(total / weight) if weight else float("nan")

    def __contains__(self, name: object) -> bool:
        # Mapping's own would read the value, and wait for the device.
        return name in self._names or name in self._known

    def __iter__(self) -> Iterator[str]:
        yield from self._names
        yield from self._known

    def __len__(self) -> int:
        return len(self._names) + len(self._known)

    def __repr__(self) -> str:
        if self._host is None:
            return f"Metrics({', '.join(self)}; on the device)"
        return f"Metrics({', '.join(f'{name}={self[name]:.6g}' for name in self)})"


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON has them: scalars of NumPy and of engines are numbers, and what is not finite is text."""
    numbers = {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in numbers.items()
    }


class MetricSum:
    """Exact averages over many batches: sums and weights are added in float64, and divided once at the end.

    Metrics are kept on the device until `result`, so that an evaluation loop never waits for a batch.
    """

    def __init__(self) -> None:
        self._parts: list[Metrics] = []

    def add(self, metrics: Metrics) -> None:
        """Adds the metrics of one batch."""
        self._parts.append(metrics)

    def result(self, everywhere: Callable[[np.ndarray], np.ndarray] | None = None) -> dict[str, float]:
        """Every device metric over all examples that were added; empty when none were. Waits.

        A metric that some batches do not have is over the examples of the others.

        Args:
            everywhere: adds sums and weights up over processes that see other examples.
        """
        if not self._parts:
            return {}
        names = tuple(dict.fromkeys(name for part in self._parts for name in part.names))
        total = np.zeros((len(names), 2))
        for part in self._parts:
            total[[names.index(name) for name in part.names]] += part.sums()
        total = total if everywhere is None else everywhere(total)
        return {
            name: float(value / weight) if weight else float("nan")
            for name, (value, weight) in zip(names, total, strict=True)
        }
