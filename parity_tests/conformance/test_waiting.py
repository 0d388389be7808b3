"""A training loop waits for its device only where it logs, compiles once for each shape, and copies ahead in order."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import crosstrain as ct

from .tasks import DROPOUT_MLP, images, loss_fn, prepared

Make = Callable[..., ct.Accelerator]
COMPILED = "/jax/core/compile/backend_compile_duration"


@contextmanager
def metrics_read(monkeypatch: pytest.MonkeyPatch, found: list[str]) -> Iterator[None]:
    sums = ct.Metrics.sums

    def counted(metrics: ct.Metrics) -> np.ndarray:
        found.append("metrics")
        return sums(metrics)

    with monkeypatch.context() as patched:
        patched.setattr(ct.Metrics, "sums", counted)
        yield


@contextmanager
def reads_of_jax(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every `item`, `float` and `bool` of an array, and the metrics that are read."""
    from jax._src.array import ArrayImpl

    found, original = [], ArrayImpl._value

    def counted(array: Any) -> np.ndarray:
        found.append("item")
        return original.fget(array)

    with monkeypatch.context() as patched, metrics_read(monkeypatch, found):
        patched.setattr(ArrayImpl, "_value", property(counted))
        yield found


@contextmanager
def reads_of_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every `item`, `float` and `bool` of a tensor, and the metrics that are read."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    found: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is torch.ops.aten._local_scalar_dense.default:
                found.append("item")
            return function(*args, **(kwargs or {}))

    with Watch(), metrics_read(monkeypatch, found):
        yield found


READS = {"jax": reads_of_jax, "torch": reads_of_torch}


class Marks(ct.Callback):
    """How many reads there were before each step."""

    def __init__(self, found: list[str]) -> None:
        self._found = found
        self.counts: list[int] = []

    def on_step_begin(self, run: Any, batch: Any) -> None:
        self.counts.append(len(self._found))


@pytest.mark.parametrize("optimizer", [ct.adamw(1e-2), ct.sgd(0.1, momentum=0.9)], ids=["adamw", "sgd"])
def test_nothing_is_read_between_logs(
    make: Make, backend: str, optimizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator = make()
    state = prepared(accelerator, DROPOUT_MLP, optimizer, average=ct.ema(0.9))
    loader = accelerator.loader(images(96), batch_size=8, shuffle=True)
    with READS[backend](monkeypatch) as found:
        marks = Marks(found)
        options = {"log_every": 4, "clip_norm": 1.0, "progress": False, "callbacks": (marks,)}
        ct.Trainer(accelerator, state, loss_fn, **options).fit(loader, epochs=1)
    # Steps 4 and 8 are read once the next one is on its way.
    new = [after - before for before, after in itertools.pairwise([*marks.counts, len(found)])]
    assert [index for index, count in enumerate(new) if count] == [4, 8, 11]


@contextmanager
def compilations() -> Iterator[list[str]]:
    """Programs that XLA is given."""
    from jax import monitoring

    found: list[str] = []

    def listen(event: str, duration: float, **_: Any) -> None:
        if event == COMPILED:
            found.append(event)

    monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("engine", ["jax"])
def test_one_program_for_each_shape(engine: str) -> None:
    """A last batch that is not full is padded; a second call of `fit` and a second epoch compile nothing."""
    accelerator: Any = ct.Accelerator(engine)
    state = prepared(accelerator, DROPOUT_MLP)
    trainer = ct.Trainer(accelerator, state, loss_fn, progress=False)
    loader, data = accelerator.loader(images(28), batch_size=8), images(28)
    trainer.fit(loader, epochs=1, eval_loader=accelerator.loader(data, batch_size=8))
    (program,) = trainer._step._run._programs._programs.values()
    assert program.jitted._cache_size() == 1
    with compilations() as found:
        trainer.fit(loader, epochs=2, eval_loader=accelerator.loader(data, batch_size=8))
    assert not found
    with compilations() as found:
        trainer.fit(accelerator.loader(images(24), batch_size=12, drop_last=True), epochs=1)
    assert found
    assert program.jitted._cache_size() == 2


@pytest.mark.parametrize("engine", ["jax"])
def test_nothing_of_the_state_is_a_constant_of_the_program(engine: str) -> None:
    accelerator: Any = ct.Accelerator(engine)
    state = prepared(accelerator, DROPOUT_MLP, average=ct.ema(0.9))
    run = accelerator.train_step(loss_fn, clip_norm=1.0)._run
    traced = run.trace(state, accelerator.to_device(images(8)))
    assert sum(np.asarray(each).nbytes for each in traced.jaxpr.consts) <= 64


def test_batches_that_are_copied_ahead_come_in_order_and_whole(make: Make) -> None:
    """The source is overwritten behind the loader: what was handed out is a copy of its own."""
    accelerator = make(precision="fp32")
    source = {"x": np.arange(64, dtype=np.float32)[:, None]}
    taken = [batch["x"] for batch in accelerator.loader(source, batch_size=8)]
    source["x"][:] = -1.0
    found = np.concatenate([np.asarray(each) for each in taken])
    assert np.array_equal(found[:, 0], np.arange(64))


@pytest.mark.parametrize("engine", ["torch"])
def test_copies_beside_the_steps_of_a_gpu(engine: str) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    accelerator: Any = ct.Accelerator(engine)
    rows = np.random.default_rng(0).standard_normal((64, 1 << 16)).astype(np.float32)
    sums = []
    for batch in accelerator.loader({"x": rows}, batch_size=8):
        busy = batch["x"] @ batch["x"].T
        sums.append(batch["x"].sum(1) + 0.0 * busy.sum())
    np.testing.assert_allclose(torch.cat(sums).cpu().numpy(), rows.sum(1), rtol=1e-3, atol=1e-1)
