"""How alike the names of parameters are: shared words, and numbers that stand for the same layer."""

import functools
import re
from collections.abc import Sequence


class Likeness:
    """Compares names of two models whose parameters have one shape and role.

    Numbers are compared among names of the same words. The same numbers on both sides mean the same layers. Other
    numbers (0, 2, 4 of a `Sequential` against 0, 1, 2 of a list, or fc1 and fc2 against dense_0 and dense_1) mean them
    in their order, where both sides have equally many.

    Args:
        mine: names of the reference.
        theirs: names of the other model.
    """

    def __init__(self, mine: Sequence[str], theirs: Sequence[str]) -> None:
        self._equally_many = len(mine) == len(theirs)
        self._mine, self._theirs = _numbered(mine), _numbered(theirs)

    def score(self, mine: str, theirs: str) -> float:
        """Shared words by all words, plus 1 for numbers of the same place."""
        x, y = words(mine), words(theirs)
        return len(x & y) / len(x | y) + self.same_place(mine, theirs)

    def same_numbering(self, mine: str, theirs: str) -> bool:
        """Whether the names with the words of each have the same numbers."""
        return self._mine[words(mine)] == self._theirs[words(theirs)]

    def same_place(self, mine: str, theirs: str) -> bool:
        """Whether both have numbers, and these mean the same layer."""
        x, y = self._mine[words(mine)], self._theirs[words(theirs)]
        n, m = numbers(mine), numbers(theirs)
        if not n or not m:
            return False
        # Where something is missing, ranks prove nothing; equal numbers at least show what it is.
        if x == y or not self._equally_many:
            return n == m
        return len(x) == len(y) and x.index(n) == y.index(m)

    def by_rank(self, mine: str, theirs: str) -> bool:
        """Whether the two have the same place by the rank of their numbers, not by the numbers themselves."""
        return self.same_place(mine, theirs) and self._equally_many and not self.same_numbering(mine, theirs)


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


@functools.cache
def words(name: str) -> frozenset[str]:
    """The words of a name, synonyms as one."""
    found = re.findall(r"[a-z]+(?:_[a-z]+)*", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())
    return frozenset(next((to for pattern, to in _SYNONYMS if re.match(pattern, word)), word) for word in found)


@functools.cache
def numbers(name: str) -> tuple[int, ...]:
    """The numbers of a name, outermost first."""
    return tuple(int(number) for number in re.findall(r"\d+", name))


def _numbered(names: Sequence[str]) -> dict[frozenset[str], list[tuple[int, ...]]]:
    """Words -> the numbers that go with them, in ascending order."""
    found: dict[frozenset[str], set[tuple[int, ...]]] = {}
    for name in names:
        found.setdefault(words(name), set()).add(numbers(name))
    return {each: sorted(kept) for each, kept in found.items()}
