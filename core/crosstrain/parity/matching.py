"""Matches the parameters of two native models by name, structure, shape and role. Nothing is guessed silently."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from crosstrain.parity.names import Part

How = Literal["hint", "name", "packed attention", "similar name", "structure"]


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
        ambiguous: reference parameter -> the others it may belong to.
        missing: reference parameters without a partner.
        unmatched: the other model's parameters without a partner.
    """

    pairs: tuple[Pair, ...]
    ambiguous: Mapping[str, tuple[str, ...]]
    missing: tuple[str, ...]
    unmatched: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every parameter has one partner."""
        return not (self.ambiguous or self.missing or self.unmatched)

    def names_of_other(self) -> dict[str, Part]:
        """The other model's own name -> its place in the reference's names."""
        return {
            own: Part(pair.reference, index, len(pair.other))
            for pair in self.pairs
            for index, own in enumerate(pair.other)
        }


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

    def groups(self) -> list[tuple[list[Parameter], list[Parameter]]]:
        """What is left, grouped by shape and role."""
        keys = {(p.shape, p.role): None for p in self.reference.values()}
        return [
            (
                [p for p in self.reference.values() if (p.shape, p.role) == key],
                [p for p in self.other.values() if (p.shape, p.role) == key],
            )
            for key in keys
        ]


def match(
    reference: Sequence[Parameter], other: Sequence[Parameter], hints: Mapping[str, str] | None = None
) -> Matching:
    """Finds for every reference parameter its partner in the other model.

    In order: hints; equal names; packed attention projections (torch's `in_proj_weight` against q, k and v apart);
    names that are similar, where the best partner is unique both ways; the same sequence of shapes in the order of
    definition, where names do not say otherwise.

    Args:
        reference: parameters in the order of definition.
        other: the same for the other model.
        hints: reference name -> other name, for what cannot be found.

    Raises:
        ConfigError: a hint names a parameter that is not there.
    """
    search = _Search(reference, other)
    _take_hints(search, hints or {})
    _take_equal(search)
    _take_packed(search)
    _take_similar(search)
    _take_structure(search)
    ambiguous = {p.name: tuple(q.name for q in others) for mine, others in search.groups() if others for p in mine}
    order = [parameter.name for parameter in reference]
    return Matching(
        pairs=tuple(sorted(search.pairs.values(), key=lambda pair: order.index(pair.reference))),
        ambiguous=ambiguous,
        missing=tuple(name for name in search.reference if name not in ambiguous),
        unmatched=tuple(name for name in search.other if not any(name in names for names in ambiguous.values())),
    )


def _take_hints(search: _Search, hints: Mapping[str, str]) -> None:
    from crosstrain.errors import ConfigError

    for mine, theirs in hints.items():
        for side, name, known in (("reference", mine, search.reference), ("other", theirs, search.other)):
            if name not in known:
                raise ConfigError(
                    f"a hint must name a parameter of the {side} model, got {name!r}; it has {', '.join(known)}."
                )
        search.take(mine, (theirs,), "hint")


def _take_equal(search: _Search) -> None:
    for name, parameter in list(search.reference.items()):
        if name in search.other and search.other[name].shape == parameter.shape:
            search.take(name, (name,), "name")


def _take_packed(search: _Search) -> None:
    for name, parameter in list(search.reference.items()):
        suffix = re.search(r"in_proj_(weight|bias)$", name)
        if not suffix:
            continue
        size = (parameter.shape[0] // 3, *parameter.shape[1:])
        prefix = _tokens(name[: suffix.start()])
        candidates = [q for q in search.other.values() if q.shape == size and q.name.endswith(suffix.group(1))]
        found = {
            letter: [q for q in candidates if letter in _tokens(q.name) and _numbers(q.name) == _numbers(name)]
            for letter in "qkv"
        }
        if all(len(each) == 1 for each in found.values()) and prefix is not None:
            search.take(name, tuple(found[letter][0].name for letter in "qkv"), "packed attention")


def _take_similar(search: _Search) -> None:
    for mine, theirs in search.groups():
        best = {p.name: _best(p, theirs) for p in mine}
        back = {q.name: _best(q, mine) for q in theirs}
        for name, partner in best.items():
            if partner is not None and back[partner] == name:
                search.take(name, (partner,), "similar name")


def _take_structure(search: _Search) -> None:
    mine, theirs = list(search.reference.values()), list(search.other.values())
    if [(p.shape, p.role) for p in mine] != [(q.shape, q.role) for q in theirs]:
        return
    for p, q in zip(mine, theirs, strict=True):
        rivals = [other for other in theirs if (other.shape, other.role) == (q.shape, q.role)]
        if max(_score(p.name, other.name) for other in rivals) > _score(p.name, q.name):
            return  # the names speak against the order
    for p, q in zip(mine, theirs, strict=True):
        search.take(p.name, (q.name,), "structure")


def _best(parameter: Parameter, candidates: Sequence[Parameter]) -> str | None:
    """The one candidate whose name is most similar; None where two are equally so, or none is at all."""
    scores = sorted(((_score(parameter.name, q.name), q.name) for q in candidates), reverse=True)
    if not scores or scores[0][0] <= 0:
        return None
    return scores[0][1] if len(scores) == 1 or scores[0][0] > scores[1][0] else None


def _score(a: str, b: str) -> float:
    """Similarity of two names: shared words by all words, plus 1 for the same numbers in the same order."""
    x, y = _tokens(a), _tokens(b)
    return len(x & y) / len(x | y) + (_numbers(a) == _numbers(b) != ())


_SYNONYMS: tuple[tuple[str, str], ...] = (
    (r"^(q|wq|query|q_?proj|to_?q)$", "q"),
    (r"^(k|wk|key|k_?proj|to_?k)$", "k"),
    (r"^(v|wv|value|v_?proj|to_?v)$", "v"),
    (r"^(o|wo|out|out_?proj|o_?proj|to_?out)$", "o"),
    (r"^(attn|attention|self_?attn|mha)$", "attention"),
    (r"^(ln|norm|layer_?norm|rms_?norm|bn|batch_?norm)$", "norm"),
    (r"^(emb|embed|embedding|embeddings|wte|tok_?embeddings)$", "embed"),
    (r"^(fc|linear|dense|proj|lin)$", "linear"),
    (r"^(head|lm_?head|classifier|output)$", "head"),
    (r"^(ff|ffn|mlp|feed_?forward)$", "mlp"),
)


def _tokens(name: str) -> set[str]:
    words = re.findall(r"[a-z]+(?:_[a-z]+)*", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())
    normal: Callable[[str], str] = lambda word: next(  # noqa: E731
        (to for pattern, to in _SYNONYMS if re.match(pattern, word)), word
    )
    return {normal(word) for word in words}


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", name))
