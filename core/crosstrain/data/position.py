"""Where a loader stands: plain data for a checkpoint, and the checks when it is read back."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from crosstrain.errors import DataError

_VERSION = 1


class Position(NamedTuple):
    """How many batches of which epoch the training loop has taken.

    Attributes:
        epoch: 0-based.
        batch: global batches of it that were handed out; those prefetched do not count.
        stream: what an iterable source said of itself after the last of them, where it has a `state_dict`.
    """

    epoch: int
    batch: int = 0
    stream: Any = None


def dump(position: Position, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The position with the facts about the loader it belongs to, as JSON can hold it.

    Raises:
        DataError: the state of an iterable source is no plain data.
    """
    state = {
        "version": _VERSION,
        "epoch": position.epoch,
        "batch": position.batch,
        "stream": position.stream,
        **facts,
    }
    try:
        json.dumps(state)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"the state_dict of an iterable source must be plain data (JSON), got one with {error}. "
            "Give the source a state_dict of numbers, strings, lists and dicts."
        ) from error
    return state


def parse(state: Any, facts: Mapping[str, Any], batches: int | None) -> Position:
    """The position in a state that `dump` made for a loader of the same facts.

    Args:
        state: from a checkpoint.
        facts: about the loader that is to go on.
        batches: in one epoch; None where it is not known.

    Raises:
        DataError: not such a state, or one of another loader; names what differs.
    """
    if not isinstance(state, Mapping):
        raise DataError(f"the state of a loader must be a dict, got {type(state).__name__}.")
    expected = {"version", "epoch", "batch", "stream", *facts}
    if expected - state.keys():
        raise DataError(f"the state of a loader must have {sorted(expected - state.keys())}, got {sorted(state)}.")
    if state["version"] != _VERSION:
        raise DataError(f"the state of a loader must have version {_VERSION}, got version={state['version']!r}.")
    for name, value in facts.items():
        if state[name] != value:
            raise DataError(
                f"{name} must be as it was when the position was saved, got {name}={value!r} after "
                f"{name}={state[name]!r}. Make the loader as it was, or start the epoch anew with set_epoch."
            )
    for name, limit in (("epoch", None), ("batch", batches)):
        value = state[name]
        if type(value) is not int or value < 0 or (limit is not None and value > limit):
            within = "at least 0" if limit is None else f"in [0, {limit}]"
            raise DataError(f"{name} in the state of a loader must be an integer {within}, got {name}={value!r}.")
    return Position(epoch=state["epoch"], batch=state["batch"], stream=state["stream"])
