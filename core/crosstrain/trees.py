"""Trees: dicts, lists, tuples and named tuples whose leaves are arrays or numbers: taken apart and put together."""

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(tree: Any, path: str = "") -> list[tuple[str, Any]]:
    """The leaves with their dotted paths; mappings in the order of their keys as text, None left out.

    The order does not depend on when a key was inserted, so that processes which filled a dict differently agree.
    """
    if tree is None:
        return []
    if isinstance(tree, Mapping):
        children = [(str(key), tree[key]) for key in _ordered(tree)]
    elif isinstance(tree, list | tuple):
        children = list(zip(getattr(tree, "_fields", map(str, range(len(tree)))), tree, strict=True))
    else:
        return [(path or "value", tree)]
    return [leaf for name, child in children for leaf in leaves(child, f"{path}.{name}" if path else name)]


def rebuild(tree: Any, values: Iterator[Any]) -> Any:
    """The tree with `values`, given in the order of `leaves`, in place of its leaves."""
    if tree is None:
        return None
    if isinstance(tree, Mapping):
        built = {key: rebuild(tree[key], values) for key in _ordered(tree)}
        return {key: built[key] for key in tree}
    if isinstance(tree, list | tuple):
        children = [rebuild(child, values) for child in tree]
        return type(tree)(*children) if hasattr(tree, "_fields") else type(tree)(children)
    return next(values)


def _ordered(tree: Mapping[Any, Any]) -> list[Any]:
    return sorted(tree, key=str)
