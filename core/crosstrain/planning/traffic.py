"""`Collective`: what one exchange between devices moves. Plain data, counted by the engines."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "broadcast"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Collective:
    """One kind of exchange in one group of devices, as often as a step runs it.

    Attributes:
        kind: as XLA names it.
        axes: mesh axes along which the devices of a group differ; empty where they follow no axes of the mesh.
        group_size: devices that exchange with each other.
        count: times per step.
        operand_bytes: what one device gives, over all `count` times.
    """

    kind: Kind
    axes: tuple[str, ...]
    group_size: int
    count: int
    operand_bytes: float

    @property
    def sent_bytes(self) -> float:
        """Bytes that one device sends per step, with the algorithms that send least on a ring of n devices.

        All-gather: n - 1 times what it gives; reduce-scatter and all-to-all: (n - 1) / n of it; all-reduce, which is
        a reduce-scatter and an all-gather: 2 (n - 1) / n; a permutation or a broadcast: what it gives.

        Source: Thakur, Rabenseifner and Gropp, Optimization of Collective Communication Operations in MPICH (2005).
        """
        n = self.group_size
        if n == 1:
            return 0.0
        shares: dict[Kind, float] = {
            "all-gather": n - 1,
            "all-reduce": 2 * (n - 1) / n,
            "reduce-scatter": (n - 1) / n,
            "all-to-all": (n - 1) / n,
            "collective-permute": 1,
            "broadcast": 1,
        }
        return self.operand_bytes * shares[self.kind]


def together(collectives: Iterable[Collective]) -> tuple[Collective, ...]:
    """Those of one kind and group as one, the one that sends most first."""
    groups: dict[tuple[Kind, tuple[str, ...], int], Collective] = {}
    for each in collectives:
        key = (each.kind, each.axes, each.group_size)
        known = groups.get(key)
        groups[key] = (
            each
            if known is None
            else replace(known, count=known.count + each.count, operand_bytes=known.operand_bytes + each.operand_bytes)
        )
    return tuple(sorted(groups.values(), key=lambda each: -each.sent_bytes))


def sent_bytes(collectives: Iterable[Collective], kind: Kind | None = None, axis: str | None = None) -> float:
    """Bytes that one device sends per step, in exchanges of one kind and along one axis where these are given."""
    return sum(
        each.sent_bytes
        for each in collectives
        if (kind is None or each.kind == kind) and (axis is None or axis in each.axes)
    )
