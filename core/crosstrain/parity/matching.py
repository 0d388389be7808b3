"""Matches the parameters of two native models by name, structure, shape and role. Nothing is guessed silently."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from crosstrain.parity.likeness import Likeness, numbers, words
from crosstrain.parity.names import Part

How = Literal[
    "hint",
    "name",
    "packed attention",
    "similar name",
    "rank of numbers",
    "same layer",
    "only one of its shape",
    "structure",
]


_SHOWN = 6
_ADDED = ("bias", "beta")

BUFFER = "buffer"
"""The role of what is no parameter."""


class Parameter(NamedTuple):
    """One parameter of one model, canonical.

    Attributes:
        name: canonical.
        shape: canonical.
        role: see `crosstrain.optim.Role`; buffers have the role `buffer`.
    """

    name: str
    shape: tuple[int, ...]
    role: str


class Pair(NamedTuple):
    """A reference parameter, the other model's parameter (or parts of it), and why they belong together."""

    reference: str
    other: tuple[str, ...]
    how: How


@dataclass(frozen=True, kw_only=True, slots=True)
class Matching:
    """What was matched and what was not.

    Attributes:
        pairs: the matches, in the reference's order.
        ambiguous: reference parameter -> the others of its shape that it may belong to: a hint decides.
        missing: reference parameters without a partner, and without one that a hint could name.
        unmatched: the other model's parameters without a partner, likewise.
        reshaped: names of both models without a partner -> their two shapes.
    """

    pairs: tuple[Pair, ...]
    ambiguous: Mapping[str, tuple[str, ...]]
    missing: tuple[str, ...]
    unmatched: tuple[str, ...]
    reshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every parameter has one partner."""
        return not (self.ambiguous or self.missing or self.unmatched)

    def problem(self, reference: str, other: str) -> str:
        """What keeps the models from being compared, and what to do; empty where nothing does.

        Args:
            reference: what the reference is called.
            other: what the other model is called.
        """
        alone = ((reference, other, self.missing), (other, reference, self.unmatched))
        asked = f"give hints for {_listed(tuple(self.ambiguous))}{self._counts(reference, other)}"
        parts = [asked] if self.ambiguous else []
        parts += [
            f"{name} has the shapes {x} and {y}, as both engines write it" for name, (x, y) in self.reshaped.items()
        ]
        parts += [
            f"only the {side} model has {_listed(own)}: take it away there, or give the {rest} model the same"
            for side, rest, names in alone
            if (own := [name for name in names if name not in self.reshaped])
        ]
        return "; ".join(parts)

    def _counts(self, reference: str, other: str) -> str:
        """How many are ambiguous on each side, where one of them has more."""
        mine, theirs = len(self.ambiguous), len({name for names in self.ambiguous.values() for name in names})
        return f" ({mine} in the {reference} model, {theirs} in the {other} model)" if mine != theirs else ""

    def names_of_other(self) -> dict[str, Part]:
        """The other model's own name -> its place in the reference's names."""
        return {
            own: Part(pair.reference, index, len(pair.other))
            for pair in self.pairs
            for index, own in enumerate(pair.other)
        }


_Key = Callable[[Parameter], tuple[object, ...]]


class _Search:
    """What is still to be matched, and the pairs found so far."""

    def __init__(self, reference: Sequence[Parameter], other: Sequence[Parameter]) -> None:
        self.reference = {parameter.name: parameter for parameter in reference}
        self.other = {parameter.name: parameter for parameter in other}
        self.pairs: dict[str, Pair] = {}

    def take(self, reference: str, other: tuple[str, ...], how: How) -> None:
        self.pairs[reference] = Pair(reference, other, how)
        del self.reference[reference]
        for name in other:
            del self.other[name]

    def groups(self, key: _Key) -> list[tuple[list[Parameter], list[Parameter]]]:
        """What is left, grouped by a key of both sides."""
        mine, theirs = list(self.reference.values()), list(self.other.values())
        return [
            ([p for p in mine if key(p) == each], [q for q in theirs if key(q) == each]) for each in _keys(mine, key)
        ]


def _with_role(parameter: Parameter) -> tuple[object, ...]:
    return parameter.shape, parameter.role


def _without_role(parameter: Parameter) -> tuple[object, ...]:
    """Roles may be read otherwise (a norm that is written by hand has a weight), but no buffer is a parameter."""
    return parameter.shape, parameter.role == BUFFER


def _of_any_role(parameter: Parameter) -> tuple[object, ...]:
    """As `_without_role`, but what is added is never what is multiplied by, which only a hint may say."""
    return *_without_role(parameter), parameter.name.rpartition(".")[2] in _ADDED


def _keys(parameters: Iterable[Parameter], key: _Key) -> dict[tuple[object, ...], None]:
    return {key(p): None for p in parameters}


def match(
    reference: Sequence[Parameter], other: Sequence[Parameter], hints: Mapping[str, str] | None = None
) -> Matching:
    """Finds for every reference parameter its partner in the other model.

    In order: hints; equal names; packed attention projections (torch's `in_proj_weight` against q, k and v apart);
    names that are similar, where the best partner is unique both ways; the same name in layers that share another
    parameter; what is left alone of its shape; the same sequence of shapes in the order of definition, where names do
    not say otherwise. Partners of the same role come first, then those of any. Layers that are numbered otherwise
    (0, 2, 4 against 0, 1, 2) belong together by the rank of their numbers, as long as that is the order in which they
    were defined.

    Args:
        reference: parameters in the order of definition.
        other: the same for the other model.
        hints: reference name -> other name, for what cannot be found.

    Raises:
        ConfigError: a hint names a parameter that is not there, or one of another shape.
    """
    search = _Search(reference, other)
    _take_hints(search, hints or {})
    _take_equal(search)
    _take_packed(search)
    for key in (_with_role, _of_any_role):
        _take_similar(search, key)
        _take_certain(search)
        _take_structure(search, key)
    ambiguous = {p.name: names for p in search.reference.values() if (names := _possible(p, search.other.values()))}
    missing = tuple(name for name in search.reference if name not in ambiguous)
    unmatched = tuple(name for name in search.other if not any(name in names for names in ambiguous.values()))
    order = [parameter.name for parameter in reference]
    return Matching(
        pairs=tuple(sorted(search.pairs.values(), key=lambda pair: order.index(pair.reference))),
        ambiguous=ambiguous,
        missing=missing,
        unmatched=unmatched,
        reshaped={
            name: (search.reference[name].shape, search.other[name].shape) for name in missing if name in unmatched
        },
    )


def _possible(parameter: Parameter, others: Iterable[Parameter]) -> tuple[str, ...]:
    """What a hint could name."""
    return tuple(q.name for q in others if _without_role(q) == _without_role(parameter))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _take_hints(search: _Search, hints: Mapping[str, str]) -> None:
    from crosstrain.errors import ConfigError

    for mine, theirs in hints.items():
        for side, name, known in (("reference", mine, search.reference), ("other", theirs, search.other)):
            if name not in known:
                raise ConfigError(
                    f"a hint must name a parameter of the {side} model, got {name!r}; it has {', '.join(known)}."
                )
        x, y = search.reference[mine].shape, search.other[theirs].shape
        if x != y:
            raise ConfigError(
                f"a hint must join parameters of one shape, got {mine!r} of shape {x} and {theirs!r} of shape {y}, as "
                "both engines write it."
            )
        search.take(mine, (theirs,), "hint")


def _take_equal(search: _Search) -> None:
    sides = (search.reference, search.other)
    for shape in {p.shape: None for p in search.reference.values()}:
        mine, theirs = ([p.name for p in side.values() if p.shape == shape] for side in sides)
        alike = Likeness(mine, theirs)
        for name in (name for name in mine if name in theirs):
            # Layer 2 of 0, 2 and 4 is not layer 2 of 0, 1 and 2.
            if not numbers(name) or alike.same_numbering(name, name):
                search.take(name, (name,), "name")


def _take_packed(search: _Search) -> None:
    for suffix in ("weight", "bias"):
        packed = [p for p in search.reference.values() if p.name.endswith(f"in_proj_{suffix}")]
        for shape in {p.shape: None for p in packed}:
            mine = [p for p in packed if p.shape == shape]
            size = (shape[0] // 3, *shape[1:])
            theirs = [q for q in search.other.values() if q.shape == size and q.name.endswith(suffix)]
            for name, others in _unpacked(mine, theirs).items():
                search.take(name, others, "packed attention")


def _unpacked(mine: Sequence[Parameter], theirs: Sequence[Parameter]) -> dict[str, tuple[str, ...]]:
    """Packed projection -> those of queries, keys and values, where each is the only one with agreeing numbers."""
    found: dict[str, list[str]] = {p.name: [] for p in mine}
    for letter in "qkv":
        candidates = [q for q in theirs if letter in words(q.name)]
        alike = Likeness([p.name for p in mine], [q.name for q in candidates])
        pairs = {}
        for name in found:
            partners = [
                q.name for q in candidates if not (numbers(name) or numbers(q.name)) or alike.same_place(name, q.name)
            ]
            if len(partners) == 1:
                pairs[name] = partners[0]
        for name, partner in _as_defined(pairs, mine, candidates, alike).items():
            found[name].append(partner)
    return {name: tuple(parts) for name, parts in found.items() if len(parts) == len("qkv")}


def _take_similar(search: _Search, key: _Key) -> None:
    for mine, theirs in search.groups(key):
        alike = Likeness([p.name for p in mine], [q.name for q in theirs])
        best = {p.name: _best({q.name: alike.score(p.name, q.name) for q in theirs}) for p in mine}
        back = {q.name: _best({p.name: alike.score(p.name, q.name) for p in mine}) for q in theirs}
        pairs = {name: partner for name, partner in best.items() if partner is not None and back[partner] == name}
        for name, partner in _as_defined(pairs, mine, theirs, alike).items():
            search.take(name, (partner,), "rank of numbers" if alike.by_rank(name, partner) else "similar name")


def _as_defined(
    pairs: Mapping[str, str], mine: Sequence[Parameter], theirs: Sequence[Parameter], alike: Likeness
) -> dict[str, str]:
    """The pairs, without those by rank whose partners were defined in another order: there numbers prove nothing."""
    defined = [q.name for q in theirs]
    kept = dict(pairs)
    ranked: dict[tuple[frozenset[str], frozenset[str]], list[str]] = {}
    for name in (p.name for p in mine if p.name in pairs):
        if alike.by_rank(name, pairs[name]):
            ranked.setdefault((words(name), words(pairs[name])), []).append(name)
    for names in ranked.values():
        places = [defined.index(pairs[name]) for name in names]
        if places != sorted(places):
            kept = {name: partner for name, partner in kept.items() if name not in names}
    return kept


def _take_certain(search: _Search) -> None:
    """What follows from other pairs: the rest of layers that belong together, and what is left alone of its shape."""
    found = -1
    while found != len(search.pairs):
        found = len(search.pairs)
        for pair in [pair for pair in search.pairs.values() if len(pair.other) == 1]:
            owner, other_owner = (name.rpartition(".")[0] for name in (pair.reference, *pair.other))
            for p in [p for p in search.reference.values() if p.name.rpartition(".")[0] == owner]:
                last = p.name.rpartition(".")[2]
                q = search.other.get(f"{other_owner}.{last}" if other_owner else last)
                if q is not None and _without_role(p) == _without_role(q):
                    search.take(p.name, (q.name,), "same layer")
        for mine, theirs in search.groups(_of_any_role):
            if len(mine) == len(theirs) == 1:
                search.take(mine[0].name, (theirs[0].name,), "only one of its shape")


def _take_structure(search: _Search, key: _Key) -> None:
    # What has no partner on the other side is named in the end; it does not change the order of the rest.
    mine, theirs = list(search.reference.values()), list(search.other.values())
    shared = _keys(mine, key).keys() & _keys(theirs, key).keys()
    mine, theirs = ([p for p in side if key(p) in shared] for side in (mine, theirs))
    if [key(p) for p in mine] != [key(q) for q in theirs]:
        return
    likeness = {
        key(group[0]): Likeness([p.name for p in group], [q.name for q in others])
        for group, others in search.groups(key)
    }
    for p, q in zip(mine, theirs, strict=True):
        alike = likeness[key(p)]
        rivals = [other.name for other in theirs if key(other) == key(q)]
        if max(alike.score(p.name, other) for other in rivals) > alike.score(p.name, q.name):
            return  # the names speak against the order
    for p, q in zip(mine, theirs, strict=True):
        search.take(p.name, (q.name,), "structure")


def _best(scores: Mapping[str, float]) -> str | None:
    """The one candidate whose name is most similar; None where two are equally so, or none is at all."""
    ranking = sorted(((score, name) for name, score in scores.items()), reverse=True)
    if not ranking or ranking[0][0] <= 0:
        return None
    return ranking[0][1] if len(ranking) == 1 or ranking[0][0] > ranking[1][0] else None
