"""`notebook_launcher`: a function of this session in several processes, what it returns, and what it raises."""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import crosstrain as ct

OTHER = pytest.param("torch", marks=pytest.mark.slow)


def made(backend: str, scale: float) -> Callable[..., Any]:
    """A function that only this session knows: it cannot be imported, and it closes over values."""

    def work(x: float, what: str = "") -> Any:
        accelerator = ct.Accelerator(backend)
        total = accelerator.reduce(np.full(2, x + accelerator.process_index))
        if accelerator.process_index == 1 and what == "raise":
            raise KeyError("planted")
        if accelerator.process_index == 1 and what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        accelerator.wait_for_everyone()
        if what == "result":
            return threading.Lock()
        return {"total": total * scale, "place": (accelerator.process_index, accelerator.process_count)}

    return work


@pytest.mark.parametrize("backend", ["jax", OTHER])
def test_the_result_of_process_0(backend: str) -> None:
    result = ct.notebook_launcher(made(backend, 10.0), (3,), processes=2, backend=backend)
    assert result["place"] == (0, 2)
    np.testing.assert_array_equal(result["total"], [70.0, 70.0])


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_an_exception_of_a_child_is_raised_here_with_its_traceback(backend: str) -> None:
    with pytest.raises(KeyError, match="planted") as raised:
        ct.notebook_launcher(made(backend, 1.0), (3, "raise"), processes=2, backend=backend)
    said = str(raised.value.__cause__)
    assert "process 1 (pid" in said
    assert 'raise KeyError("planted")' in said
    assert said.endswith("KeyError: 'planted'")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_killed_child_is_a_launch_error(backend: str) -> None:
    with pytest.raises(ct.LaunchError, match=r"process 1 \(pid .*\) was killed by SIGKILL"):
        ct.notebook_launcher(made(backend, 1.0), (3, "kill"), processes=2, backend=backend)


@pytest.mark.slow
def test_a_result_that_cannot_be_sent_is_refused() -> None:
    with pytest.raises(ct.LaunchError, match="the result of process 0 must be sendable, got lock"):
        ct.notebook_launcher(made("torch", 1.0), (3, "result"), processes=1, backend="torch")


@pytest.mark.slow
def test_devices_of_each_process() -> None:
    count = ct.notebook_launcher(
        lambda: ct.Accelerator("jax").device_count, processes=2, backend="jax", devices_per_process=3
    )
    assert count == 6


def work() -> None: ...


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((work,), {"processes": 0}, "processes must be at least 1, got processes=0"),
        ((work,), {"processes": "2"}, "processes must be an integer, got processes='2'"),
        ((3,), {"processes": 2}, "function must be callable, got int"),
        ((work, "text"), {"processes": 2}, "args must be a tuple of arguments, got str"),
        (
            (work, (threading.Lock(),)),
            {"processes": 2},
            "function and args must be sendable to other processes, got work",
        ),
        ((work,), {"processes": 2, "backend": "torch", "devices_per_process": 2}, "devices_per_process must be 1"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(arguments: Any, options: Any, message: str) -> None:
    with pytest.raises(ct.ConfigError, match=message):
        ct.notebook_launcher(*arguments, **options)


def test_an_engine_that_is_not_there() -> None:
    with pytest.raises(ct.BackendError, match="backend must be one of jax, torch, got backend='tensorflow'"):
        ct.notebook_launcher(work, processes=2, backend="tensorflow")
