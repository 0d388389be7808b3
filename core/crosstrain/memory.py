"""Memory that is not enough: `find_batch_size`, and `Memory`, what it asks of an accelerator."""

# mypy: disable-error-code="empty-body"
import functools
import gc
import inspect
import math
import traceback
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal, TypeVar, overload

from crosstrain.abstract import abstractmethod
from crosstrain.collectives import Collectives
from crosstrain.errors import CollectiveError, ConfigError, OutOfMemoryError, require_count
from crosstrain.sharding import BATCH_AXES

_Result = TypeVar("_Result")
_Outcome = Literal["done", "out of memory", "interrupted", "failed"]


class Memory(Collectives):
    """A part of `Accelerator`."""

    backend: ClassVar[str]
    mesh_sizes: dict[str, int]

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether an exception, or what caused it, says that host or devices have no memory left."""
        return any(isinstance(each, MemoryError) or self._is_out_of_memory(each) for each in _chain(error))

    def free_memory(self) -> None:
        """Gives back what nothing refers to any more: unreachable objects, caches and compiled programs."""
        gc.collect()
        self._free_memory()

    @abstractmethod
    def _is_out_of_memory(self, error: BaseException) -> bool:
        """Whether the framework raised this for want of memory."""

    @abstractmethod
    def _free_memory(self) -> None:
        """Empties the framework's caches."""


@overload
def find_batch_size(
    function: Callable[..., _Result], *, accelerator: Memory, starting_batch_size: int = 128
) -> Callable[..., _Result]: ...


@overload
def find_batch_size(
    function: None = None, *, accelerator: Memory, starting_batch_size: int = 128
) -> Callable[[Callable[..., _Result]], Callable[..., _Result]]: ...


def find_batch_size(
    function: Callable[..., Any] | None = None, *, accelerator: Memory, starting_batch_size: int = 128
) -> Any:
    """Calls a function with smaller and smaller micro-batches until memory is enough. Also a decorator.

        @ct.find_batch_size(accelerator=accelerator, starting_batch_size=512)
        def train(batch_size, accumulate_steps):
            loader = accelerator.loader(source, batch_size=batch_size * accumulate_steps)
            trainer = ct.Trainer(accelerator, prepare(), loss_fn, accumulate_steps=accumulate_steps)
            return trainer.fit(loader, epochs=1)

        history = train()

    `batch_size * accumulate_steps` stays `starting_batch_size`, so that the run optimises the same whatever fits. When
    an attempt ends for want of memory, its micro-batch is at least halved; it is always one that the mesh's batch axes
    divide. What the attempt held is given back first, so make model and state inside the function.

    Every process goes on with what fits all of them, which they agree on after each attempt. A process that waits
    inside a native collective (the sum of gradients) for one that ran out of memory hears of it only when the
    framework's own timeout ends that wait; calls of `Collectives` end at once.

    Args:
        function: takes `(batch_size, accumulate_steps, *others)`: examples of all devices in one pass, and passes to
            an optimizer step. Every process calls the result, with `others`.
        accelerator: tells an error for want of memory from others, on its engine.
        starting_batch_size: examples of an optimizer step, over all devices.

    Returns:
        What takes `*others` and returns what `function` returned; without `function`, a decorator.

    Raises:
        ConfigError: a function without these two arguments, or a batch size that the batch axes do not divide.
        OutOfMemoryError: when called, and one example per device is too much.
        CollectiveError: when called, and another process failed for another reason.
    """
    if function is None:
        return functools.partial(find_batch_size, accelerator=accelerator, starting_batch_size=starting_batch_size)
    _require_arguments(function)
    require_count("starting_batch_size", starting_batch_size)
    devices = math.prod(accelerator.mesh_sizes[axis] for axis in BATCH_AXES)
    if starting_batch_size % devices:
        down = starting_batch_size // devices * devices
        raise ConfigError(
            f"starting_batch_size must be a multiple of the mesh's batch axes, got starting_batch_size="
            f"{starting_batch_size} on {devices} devices. Use {f'{down} or ' if down else ''}{down + devices}."
        )

    @functools.wraps(function)
    def find(*others: Any, **named: Any) -> Any:
        accelerator.free_memory()
        for count in _accumulate_counts(starting_batch_size // devices):
            call = functools.partial(function, starting_batch_size // count, count, *others, **named)
            fits, result = _attempt(accelerator, call)
            if fits:
                return result
        raise OutOfMemoryError(
            f"starting_batch_size must be such that one example per device fits into memory, got starting_batch_size="
            f"{starting_batch_size}, of which {devices} at a time did not fit. Use a smaller model, a lower precision "
            "or more devices along fsdp."
        )

    return find


def _attempt(accelerator: Memory, call: Callable[[], Any]) -> tuple[bool, Any]:
    """Whether memory was enough on every process, and what `call` returned here."""
    result, failure = None, None
    try:
        result = call()
    except Exception as error:
        failure = error
    outcome = _outcome(accelerator, failure)
    # The others may be in a collective of `call` still; that one ends for both sides, and they come here next.
    outcomes = _agreed(accelerator, outcome)
    if set(outcomes) == {"done"}:
        return True, result
    if "out of memory" in outcomes and "failed" not in outcomes:
        if failure is not None:
            _forget_frames(failure)
        del result, failure
        accelerator.free_memory()
        return False, None
    cause: _Outcome = "failed" if "failed" in outcomes else "interrupted"
    if failure is not None and outcome == cause:
        raise failure
    failed = outcomes.index(cause)
    raise CollectiveError(
        f"every process must finish an attempt of find_batch_size or run out of memory, but process {failed} raised "
        "another exception. See its own output."
    ) from failure


def _outcome(accelerator: Memory, failure: Exception | None) -> _Outcome:
    if failure is None:
        return "done"
    if accelerator.is_out_of_memory(failure):
        return "out of memory"
    return "interrupted" if isinstance(failure, CollectiveError) else "failed"


def _agreed(accelerator: Memory, outcome: _Outcome) -> list[_Outcome]:
    """What became of the attempt on every process."""
    try:
        return accelerator.gather_object(outcome)
    except CollectiveError:
        return accelerator.gather_object(outcome)


def _accumulate_counts(examples: int) -> Iterator[int]:
    """Divisors of `examples`, each at least twice the one before: 1, 2, 4, ... as long as they divide it."""
    last = 0
    for count in range(1, examples + 1):
        if examples % count == 0 and count >= 2 * last:
            last = count
            yield count


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__


def _forget_frames(error: BaseException) -> None:
    """Lets go of the arrays that the local variables of a failed call refer to."""
    for each in _chain(error):
        traceback.clear_frames(each.__traceback__)
        if each.__context__ is not None and each.__context__ is not each.__cause__:
            traceback.clear_frames(each.__context__.__traceback__)


def _require_arguments(function: Callable[..., Any]) -> None:
    names = list(inspect.signature(function).parameters)[:2]
    if names != ["batch_size", "accumulate_steps"]:
        raise ConfigError(
            f"the function must take batch_size and accumulate_steps first, got ({', '.join(names)}, ...). "
            "Their product is the batch of an optimizer step: give the first times the second to the loader, and the "
            "second to the trainer."
        )
