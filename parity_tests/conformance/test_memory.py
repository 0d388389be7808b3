"""Batch sizes that fit: both engines refuse really too much memory, and go on with smaller micro-batches."""

import importlib
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import crosstrain as ct

from .tasks import MLP, images, loss_fn, prepared, worst

Make = Callable[..., ct.Accelerator]
TOO_MUCH = 2**25, 2**25  # at least 2**50 bytes: more than addresses reach


def allocate(backend: str) -> Any:
    return importlib.import_module({"jax": "jax.numpy", "torch": "torch"}[backend]).zeros(TOO_MUCH)


def train(accelerator: ct.Accelerator, batch_size: int, accumulate_steps: int) -> ct.Trainer:
    trainer = ct.Trainer(
        accelerator, prepared(accelerator, MLP), loss_fn, accumulate_steps=accumulate_steps, progress=False, log_every=1
    )
    trainer.fit(accelerator.loader(images(64), batch_size=batch_size * accumulate_steps), epochs=1)
    return trainer


def test_the_run_is_the_same_with_the_micro_batch_that_fits(make: Make, backend: str) -> None:
    accelerator, tried, held = make(), [], []

    @ct.find_batch_size(accelerator=accelerator, starting_batch_size=16)
    def found(batch_size: int, accumulate_steps: int, limit: int, *, name: str) -> ct.Trainer:
        """A run."""
        assert [each() for each in held] == [None] * len(tried), "what failed is still in memory"
        tried.append((batch_size, accumulate_steps))
        trainer = train(accelerator, batch_size, accumulate_steps)
        held.append(weakref.ref(trainer.state))
        if batch_size > limit:
            kept = [trainer, allocate(backend)]
            raise AssertionError(kept)
        assert name == "mine"
        return trainer

    trainer, expected = found(4, name="mine"), train(make(), 16, 1)
    assert tried == [(16, 1), (8, 2), (4, 4)]
    assert (found.__name__, found.__doc__) == ("found", "A run.")
    assert trainer.history.values("loss") == pytest.approx(expected.history.values("loss"), rel=1e-12)
    assert worst(dict(trainer.state.snapshot().params), dict(expected.state.snapshot().params)) < 1e-12


def test_memory_that_a_step_lacks_is_recognised(make: Make, backend: str) -> None:
    """Inside a compiled step, whose own error reaches the loop through the engine."""
    accelerator = make()
    zeros = importlib.import_module({"jax": "jax.numpy", "torch": "torch"}[backend]).zeros

    def hungry(model: Any, batch: Any, ops: ct.Ops) -> Any:
        logits = model(batch["image"])
        # A number that the compiler cannot leave out.
        large = logits.shape[0] > 2
        extra = (zeros(TOO_MUCH) + logits.mean()).cumsum(0).max() if large else 0.0
        return ops.mean(logits.sum(-1) + 0 * extra)

    def run(batch_size: int, accumulate_steps: int) -> tuple[int, int]:
        state = prepared(accelerator, MLP)
        step = accelerator.train_step(hungry, accumulate_steps=accumulate_steps)
        metrics = step(state, images(batch_size * accumulate_steps))
        assert np.isfinite(metrics["loss"])
        return batch_size, accumulate_steps

    assert ct.find_batch_size(run, accelerator=accelerator, starting_batch_size=8)() == (2, 4)


def test_other_errors_pass_through_at_once(make: Make) -> None:
    calls = []

    def run(batch_size: int, accumulate_steps: int) -> None:
        calls.append(batch_size)
        raise RuntimeError("RESOURCE_EXHAUSTED: a user's own words")

    with pytest.raises(RuntimeError, match="a user's own words"):
        ct.find_batch_size(run, accelerator=make(), starting_batch_size=8)()
    assert calls == [8]


def test_host_memory_counts_and_so_do_causes(make: Make) -> None:
    sizes = []

    def run(batch_size: int, accumulate_steps: int) -> int:
        sizes.append(batch_size)
        if batch_size > 6:
            np.zeros(TOO_MUCH)
        if batch_size > 3:
            try:
                np.zeros(TOO_MUCH)
            except MemoryError as error:
                raise ct.DataError("a batch could not be made") from error
        return batch_size

    assert ct.find_batch_size(run, accelerator=make(), starting_batch_size=12)() == 3
    assert sizes == [12, 6, 3]


def test_one_example_per_device_is_the_end(make: Make, backend: str) -> None:
    sizes = []

    def run(batch_size: int, accumulate_steps: int) -> None:
        sizes.append((batch_size, accumulate_steps))
        allocate(backend)

    with pytest.raises(ct.OutOfMemoryError, match="one example per device fits into memory, got starting_batch_size=6"):
        ct.find_batch_size(run, accelerator=make(), starting_batch_size=6)()
    assert sizes == [(6, 1), (3, 2), (1, 6)]


@pytest.mark.parametrize(
    ("function", "size", "message"),
    [
        (lambda batch_size: None, 8, r"must take batch_size and accumulate_steps first, got \(batch_size"),
        (lambda model, batch_size, accumulate_steps: None, 8, r"first, got \(model, batch_size"),
        (lambda batch_size, accumulate_steps: None, 0, "starting_batch_size must be at least 1"),
        (lambda batch_size, accumulate_steps: None, 2.5, "starting_batch_size must be an integer"),
    ],
)
def test_what_cannot_work_is_refused(make: Make, function: Any, size: Any, message: str) -> None:
    with pytest.raises(ct.ConfigError, match=message):
        ct.find_batch_size(function, accelerator=make(), starting_batch_size=size)
