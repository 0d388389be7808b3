"""Translates one side's parameter names into the names that both sides share, packed parameters included."""

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")


class Part(NamedTuple):
    """Where one of a side's own parameters goes.

    Attributes:
        shared: the shared name.
        position: which part of the shared parameter this is, along its first dimension.
        of: how many parts it has; 1 for the whole.
    """

    shared: str
    position: int = 0
    of: int = 1


class Names:
    """A side's own names and the shared ones; names that are not mapped are shared as they are."""

    def __init__(self, parts: Mapping[str, Part] | None = None) -> None:
        self._parts = dict(parts or {})

        self._modules = _module_paths(self._parts)

    def label(self, own: str) -> str:
        """The shared name of one of the side's own parameters."""
        return self._parts.get(own, Part(own)).shared

    def module(self, own: str) -> str:
        """The shared path of one of the side's own modules; a suffix `#1` of repeated calls stays."""
        path, mark, call = own.partition("#")
        # A module without parameters is not matched; it must not pass for the one that has its path on the other side.
        unmatched = f"{path} (own)" if path in self._modules.values() else path
        return self._modules.get(path, unmatched) + mark + call

    def by_module(self, own: Mapping[str, T]) -> dict[str, T]:
        """Anything by module path, in shared paths."""
        return {self.module(name): value for name, value in own.items()}

    def shapes(self, own: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Shapes by shared name."""
        found: dict[str, tuple[int, ...]] = {}
        for name, shape in own.items():
            part = self._parts.get(name, Part(name))
            found[part.shared] = (shape[0] * part.of, *shape[1:]) if part.of > 1 else shape
        return found

    def first(self, own: Mapping[str, T]) -> dict[str, T]:
        """Anything that is the same for all parts, by shared name."""
        return {self.label(name): value for name, value in reversed(list(own.items()))}

    def to_shared(self, own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Arrays by shared name; the parts of a packed parameter are put together."""
        found: dict[str, list[tuple[int, np.ndarray]]] = {}
        for name, values in own.items():
            part = self._parts.get(name, Part(name))
            found.setdefault(part.shared, []).append((part.position, values))
        return {name: _join(parts) for name, parts in found.items()}

    def to_own(self, shared: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Arrays by the side's own names; packed parameters are taken apart."""
        parts: dict[str, list[tuple[str, Part]]] = {}
        for own, part in self._parts.items():
            parts.setdefault(part.shared, []).append((own, part))
        found: dict[str, np.ndarray] = {}
        for name, values in shared.items():
            for own, part in parts.get(name, [(name, Part(name))]):
                found[own] = np.split(values, part.of)[part.position] if part.of > 1 else values
        return found


def _join(parts: list[tuple[int, np.ndarray]]) -> np.ndarray:
    ordered = [values for _, values in sorted(parts, key=lambda part: part[0])]
    return np.concatenate(ordered) if len(ordered) > 1 else ordered[0]


def _module_paths(parts: Mapping[str, Part]) -> dict[str, str]:
    """Own module path -> shared one, read off the parameters: both hold the same ones.

    Several modules, one inside the other, may hold the same. A layer is the innermost of them (a `Sequential` of it and
    an activation is more), whatever holds layers the outermost (`nnx.Sequential` keeps a list inside it).
    """
    mine = _holders({own: part.shared for own, part in parts.items()})
    theirs = _holders({part.shared: part.shared for part in parts.values()})
    found: dict[str, str] = {}
    for held, paths in mine.items():
        others = theirs.get(held)
        if not others:
            continue
        own = [name for name, part in parts.items() if part.shared in held]
        is_layer = all(_owner(name) == others[-1] for name in held) and all(_owner(name) == paths[-1] for name in own)
        pairs = zip(paths[::-1], others[::-1], strict=False) if is_layer else zip(paths, others, strict=False)
        found |= dict(pairs)
    return found


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _holders(held: Mapping[str, str]) -> dict[frozenset[str], list[str]]:
    """Shared names -> the paths that hold just these, from the outermost to the innermost; the root has no path."""
    inside: dict[str, set[str]] = {}
    for name, shared in held.items():
        owner = _owner(name)
        while owner:
            inside.setdefault(owner, set()).add(shared)
            owner = _owner(owner)
    found: dict[frozenset[str], list[str]] = {}
    for path in sorted(inside, key=len):
        found.setdefault(frozenset(inside[path]), []).append(path)
    return found
