"""`crosstrain launch --test`: every collective and one training step on this machine, against answers that are known.

Run as a script by every process: `python -m crosstrain.launch.check BACKEND`.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from crosstrain import models, optim
from crosstrain.accelerator import Accelerator
from crosstrain.errors import CollectiveError
from crosstrain.launch.supervise import say
from crosstrain.terminal import plain_console

TIMEOUT_S = 120.0
"""A check that takes longer waits for a process that it cannot reach. The first one compiles."""
_STEP_TOLERANCE = 1e-5
"""Some hundred roundings of float32, of 6e-8 each."""
_CONFIG = models.MLPConfig(in_features=4, hidden=(), out_features=3)
_RATE = 0.5
_LARGE = 10**6
_NETWORK = (
    "The processes cannot exchange data, or with wrong values. Check that they reach each other over the network "
    "interface in use (torch: GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME; NCCL_DEBUG=INFO says what NCCL does), that no "
    "firewall closes ports between them, and that all hosts run the same versions (crosstrain env)."
)
_STEP = (
    "The exchange works but the compiled step is wrong. Compare with --processes 1, then with JAX_PLATFORMS=cpu or "
    "CUDA_VISIBLE_DEVICES= to see whether it is the device; its driver and framework must fit (crosstrain env)."
)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is tried: `found` and `expected` give an array or an object; `fix` is what to do.

    `expected` is given the number of processes; `tolerance` is relative to the largest number that is expected.
    """

    name: str
    found: Callable[[Accelerator], Any]
    expected: Callable[[int], Any]
    fix: str = _NETWORK
    tolerance: float = 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """What came out of a check on one process; an empty `problem` is success."""

    name: str
    problem: str
    fix: str


def checks(accelerator: Accelerator) -> list[Check]:
    """Every collective, and one training step."""
    return [
        *_collectives(),
        Check("gather_for_metrics", _metrics, lambda n: np.arange(8 * accelerator.device_count - 1)),
        Check("training step", trained, lambda n: by_hand(accelerator.device_count), _STEP, _STEP_TOLERANCE),
    ]


def run(accelerator: Accelerator, tried: list[Check] | None = None) -> list[Result]:
    """The results of this process, in the order of the checks; stops at the first exchange that is refused."""
    results: list[Result] = []
    for check in checks(accelerator) if tried is None else tried:
        with _deadline(check.name, accelerator.process_index):
            try:
                problem = difference(
                    check.found(accelerator), check.expected(accelerator.process_count), check.tolerance
                )
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
                if isinstance(error, CollectiveError):
                    # The processes no longer do the same: what follows would say nothing.
                    return [*results, Result(check.name, problem, check.fix)]
        results.append(Result(check.name, problem, check.fix))
    return results


def difference(found: Any, expected: Any, tolerance: float = 0.0) -> str:
    """What differs, in words; empty when nothing does. `tolerance` is relative to the largest expected number."""
    if not isinstance(expected, np.ndarray):
        return "" if found == expected else f"got {found!r}, expected {expected!r}"
    found = np.asarray(found)
    if found.shape != expected.shape:
        return f"got shape {found.shape}, expected {expected.shape}"
    worst = float(np.max(np.abs(found - expected)))
    limit = tolerance * float(np.max(np.abs(expected)))
    return "" if worst <= limit else f"differs by {worst:.1e}, at most {limit:.1e} is rounding"


def report(everyone: list[list[Result]], what: str) -> tuple[Table, str]:
    """The table over all processes, and what to do about what is wrong; empty when nothing is."""
    table = Table(title=what)
    for column in ("check", "result"):
        table.add_column(column)
    wrong: dict[str, str] = {}
    for name in dict.fromkeys(result.name for results in everyone for result in results):
        problems = {
            index: result
            for index, results in enumerate(everyone)
            for result in results
            if result.name == name and result.problem
        }
        said = "; ".join(f"process {index}: {result.problem}" for index, result in problems.items())
        table.add_row(name, said or "ok", style="red" if problems else None)
        wrong |= {result.fix: "" for result in problems.values()}
    return table, "\n".join(wrong)


def trained(accelerator: Accelerator) -> np.ndarray:
    """The loss, and the weights and biases after one step of SGD, of a linear model; shape (1 + parameters,)."""
    state = accelerator.prepare(models.build("mlp", _CONFIG, accelerator), optim.sgd(_RATE))
    step = accelerator.train_step(lambda model, batch, ops: ops.mse(model(batch["x"]), batch["y"]))
    examples = _examples(accelerator.device_count)
    (batch,) = accelerator.loader(examples, batch_size=len(examples["x"]))
    loss = float(step(state, batch)["loss"])
    after = state.snapshot().params
    return np.concatenate([[loss], *(after[name].ravel() for name in sorted(after))])


def by_hand(device_count: int) -> np.ndarray:
    """What `trained` has to give, in float64: loss = mean r^2, r = x W^T + b - y, hence dW = 2 r^T x / size of r."""
    start, examples = _CONFIG.initial_weights(0), _examples(device_count)
    weight, bias = start["layers.0.weight"], start["layers.0.bias"]
    residual = examples["x"] @ weight.T + bias - examples["y"]
    scale = 2 * _RATE / residual.size
    after = [bias - scale * residual.sum(axis=0), weight - scale * residual.T @ examples["x"]]
    return np.concatenate([[np.mean(residual**2)], *(each.ravel() for each in after)])


def main(backend: str) -> int:
    """Runs the checks in this process, and prints the table on the first one; 0 when nothing is wrong."""
    with _deadline("meeting the other processes", None):
        accelerator = Accelerator(backend)
    mine = run(accelerator)
    with _deadline("collecting the results", accelerator.process_index):
        everyone = accelerator.gather_object(mine)
    table, fixes = report(
        everyone, f"{backend}: {accelerator.device_count} devices, {accelerator.process_count} processes"
    )
    if accelerator.is_main_process:
        plain_console().print(table)
        print(f"Something is wrong.\n{fixes}" if fixes else "Everything works.", flush=True)
    accelerator.close()
    return 1 if fixes else 0


def _examples(device_count: int) -> dict[str, np.ndarray]:
    """Eight examples for each device, all different, so that a device whose part is lost is missed."""
    rows = np.arange(8.0 * device_count)[:, None]
    return {"x": np.sin(rows + np.arange(4)), "y": np.cos(2 * rows + np.arange(3))}


def _collectives() -> list[Check]:
    return [
        Check("wait_for_everyone", lambda a: a.wait_for_everyone(), lambda n: None),
        Check("gather", lambda a: a.gather(_rows(a.process_index)), lambda n: np.concatenate(_all(n))),
        Check("reduce(sum)", lambda a: a.reduce(_rows(a.process_index)), lambda n: np.sum(_all(n), axis=0)),
        Check("reduce(mean)", lambda a: a.reduce(_rows(a.process_index), "mean"), lambda n: np.mean(_all(n), axis=0)),
        Check("reduce(max)", lambda a: a.reduce(_rows(a.process_index), "max"), lambda n: np.max(_all(n), axis=0)),
        Check("reduce(min)", lambda a: a.reduce(_rows(a.process_index), "min"), lambda n: np.min(_all(n), axis=0)),
        Check(
            "broadcast",
            lambda a: a.broadcast(_rows(a.process_index), a.process_count - 1),
            lambda n: _rows(n - 1),
        ),
        Check("gather_object", lambda a: a.gather_object({"index": a.process_index}), _indices),
        Check(
            "broadcast_object",
            lambda a: a.broadcast_object(f"from {a.process_index}", a.process_count - 1),
            lambda n: f"from {n - 1}",
        ),
        Check("pad_across_processes", _padded, lambda n: np.concatenate([_row_of(i, n) for i in range(n)])),
        Check("large gather", _large, lambda n: _LARGE * n * (n - 1) / 2),
        Check("check_trigger", _trigger, lambda n: [True, False]),
    ]


def _rows(index: int) -> np.ndarray:
    """Numbers of one process, shape (2, 3); sums of them are exact in float32."""
    return np.arange(6, dtype=np.float32).reshape(2, 3) + 10 * index


def _all(count: int) -> list[np.ndarray]:
    return [_rows(index) for index in range(count)]


def _indices(count: int) -> list[dict[str, int]]:
    return [{"index": index} for index in range(count)]


def _padded(accelerator: Accelerator) -> np.ndarray:
    own = np.full(accelerator.process_index + 1, accelerator.process_index, np.int32)
    return accelerator.gather(accelerator.pad_across_processes(own, pad_value=-1))


def _row_of(index: int, count: int) -> np.ndarray:
    return np.array([index] * (index + 1) + [-1] * (count - index - 1))


def _large(accelerator: Accelerator) -> float:
    """The sum over several megabytes: more than one message."""
    return float(accelerator.gather(np.full(_LARGE, float(accelerator.process_index))).sum())


def _metrics(accelerator: Accelerator) -> np.ndarray:
    """One example less than the devices share: the padding has to go."""
    size = 8 * accelerator.device_count
    (batch,) = accelerator.loader({"index": np.arange(size - 1)}, batch_size=size)
    return accelerator.gather_for_metrics(batch["index"], batch)


def _trigger(accelerator: Accelerator) -> list[bool]:
    if accelerator.is_last_process:
        accelerator.set_trigger()
    return [accelerator.check_trigger(), accelerator.check_trigger()]


@contextlib.contextmanager
def _deadline(what: str, index: int | None) -> Iterator[None]:
    """Ends the process with an explanation when the block takes too long: a collective cannot be interrupted."""

    def give_up() -> None:
        who = "this process" if index is None else f"process {index}"
        say(f"{what}: {who} has waited {TIMEOUT_S:.0f} s for the others. {_NETWORK}")
        os._exit(1)

    timer = threading.Timer(TIMEOUT_S, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
