"""What checkpoints keep of callbacks: written down at once, since a save goes on in the background."""

import json
from collections.abc import Iterable, Sequence

from crosstrain.callbacks.base import Callback
from crosstrain.errors import CheckpointError

State = dict[str, str]
"""`key` of a callback, and its `state` as text, in which Python's `json` has NaN and infinities."""


def states_of(callbacks: Iterable[Callback]) -> list[State]:
    """The states of those that have one, in order.

    Raises:
        CheckpointError: names a callback whose state is no dict, or holds what JSON cannot.
    """
    found = [(callback, callback.state_dict()) for callback in callbacks]
    return [{"key": callback.state_key, "state": _text(callback, state)} for callback, state in found if state != {}]


def load_states(callbacks: Iterable[Callback], states: Sequence[State]) -> None:
    """Gives each callback the first state with its key that no other one has taken."""
    left = list(states)
    for callback in callbacks:
        found = next((state for state in left if state["key"] == callback.state_key), None)
        if found is not None:
            left.remove(found)
            callback.load_state_dict(json.loads(found["state"]))


def _text(callback: Callback, state: object) -> str:
    try:
        if not isinstance(state, dict):
            raise TypeError(f"Object of type {type(state).__name__}")
        return json.dumps(state)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"state_dict of {type(callback).__name__} must give a dict of what JSON can hold (dicts, lists, strings, "
            f"numbers), got: {error}. Convert it, such as float(value) or values.tolist()."
        ) from error
