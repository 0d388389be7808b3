"""One process of several: `worker.py BACKEND FOLDER [PROCESSES INDEX PORT]`. Run by test_processes.py.

Does everything that processes can do together, and writes what came out to FOLDER/<index>.json. Torch's processes are
started by torchrun; JAX's get their place on the command line.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import crosstrain as ct
from parity_tests.processes import scenarios


def outcome(attempt: Callable[[], Any]) -> str:
    """The error that an attempt ends in."""
    try:
        return f"nothing was raised, got {attempt()}"
    except ct.CrosstrainError as error:
        return f"{type(error).__name__}: {error}"


def identity(accelerator: ct.Accelerator, folder: Path) -> dict[str, Any]:
    """Which process this is, what runs where, and what is printed."""
    index = accelerator.process_index
    only = {
        "main": accelerator.on_main_process(lambda x: x),
        "local main": accelerator.on_local_main_process(lambda x: x),
        "last": accelerator.on_last_process(lambda x: x),
        "second": accelerator.on_process(lambda x: x, 1),
        "decorated": accelerator.on_process(index=1)(lambda x: x),
    }
    with (folder / f"printed{index}").open("w") as file:
        accelerator.print("a", index, sep="-", end="!", file=file)
    return {
        "place": [index, accelerator.process_count, accelerator.local_process_index],
        "is": [accelerator.is_main_process, accelerator.is_local_main_process, accelerator.is_last_process],
        "ran": {name: call(index) for name, call in only.items()},
        "printed": (folder / f"printed{index}").read_text(),
    }


def order(accelerator: ct.Accelerator, folder: Path) -> dict[str, Any]:
    """Each process leaves a file in the block, and notes which ones it found. The main process takes its time."""
    found = {}
    for name in ("main_process_first", "local_main_process_first"):
        with getattr(accelerator, name)():
            if accelerator.is_main_process:
                time.sleep(0.5)
            found[name] = sorted(path.name for path in folder.glob(f"{name}*"))
            (folder / f"{name}{accelerator.process_index}").touch()
        accelerator.wait_for_everyone()
    try:
        with accelerator.main_process_first():
            if accelerator.is_main_process:
                raise KeyError("the others go on")
    except KeyError as error:
        found["raised"] = [str(error)]
    return found


def objects(accelerator: ct.Accelerator) -> dict[str, Any]:
    """Objects of different sizes, from nothing to more than one message, and triggers."""
    index, last = accelerator.process_index, accelerator.process_count - 1
    large = accelerator.gather_object("x" * 10 ** (2 * index + 1))
    triggers = [accelerator.check_trigger()]
    if index == last:
        accelerator.set_trigger()
    triggers += [accelerator.check_trigger(), accelerator.check_trigger()]
    return {
        "gathered": accelerator.gather_object({"index": index, "none": None}),
        "lengths": [len(text) for text in large],
        "broadcast": accelerator.broadcast_object([index, "x" * 5000 * index], from_process=last)[0],
        "triggers": triggers,
    }


def split(accelerator: ct.Accelerator) -> list[Any]:
    """Parts of lists, tuples and arrays of every length around the number of processes."""
    parts: list[Any] = []
    for length in range(10):
        for padding in (False, True):
            inputs = {"list": list(range(length)), "array": np.arange(length) * 10}
            with accelerator.split_between_processes(inputs, apply_padding=padding) as part:
                parts.append([part["list"], part["array"].tolist()])
    return parts


def metrics(accelerator: ct.Accelerator) -> dict[str, Any]:
    """99 examples in batches of 20: values per example, native and from the host, and the whole batch."""
    source = {"index": np.arange(99), "value": np.sqrt(np.arange(99.0))}
    found: dict[str, Any] = {}
    for name, shuffle in (("in order", False), ("shuffled", True)):
        batches = list(accelerator.loader(source, batch_size=20, shuffle=shuffle))
        kept = [accelerator.gather_for_metrics({"i": each["index"], "v": each["value"]}, each) for each in batches]
        found[name] = np.concatenate([each["i"] for each in kept]).tolist()
        found[f"{name}, values"] = np.concatenate([each["v"] for each in kept]).tolist()
        host = [scenarios.local_rows(each["index"]) for each in batches]
        again = [accelerator.gather_for_metrics(rows, each) for rows, each in zip(host, batches, strict=True)]
        found[f"{name}, from the host"] = np.concatenate(again).tolist()
    found["rows"] = outcome(lambda: accelerator.gather_for_metrics(np.ones(3), batches[0]))
    return found


def augmented(accelerator: ct.Accelerator, source: Any) -> list[str]:
    """Digests of the batches of two epochs whose images were changed on the devices, whole."""
    loader = accelerator.loader(source, transform_on="device", **scenarios.AUGMENTED)
    return [
        scenarios.digest(accelerator.gather({name: scenarios.local_rows(batch[name]) for name in ("image", "mix")}))
        for _ in range(2)
        for batch in loader
    ]


def mismatches(accelerator: ct.Accelerator) -> dict[str, str]:
    """The last process does something else than the others. All of them have to hear of it."""
    odd = accelerator.is_last_process
    shape, large = ((3, 5), 999_999) if odd else ((3, 4), 10**6)
    model = ct.models.build("mlp", ct.models.MLPConfig(in_features=4, hidden=(4,), out_features=2), accelerator)
    state, predict = accelerator.prepare(model), accelerator.predict_step(lambda model, batch, ops: model(batch["x"]))
    attempts: dict[str, Callable[[], Any]] = {
        "shapes": lambda: accelerator.gather({"same": 1, "logits": np.ones(shape, np.float32)}),
        "large": lambda: accelerator.reduce(np.ones(large)),
        "types": lambda: accelerator.reduce(np.ones(3, np.float32 if odd else np.int32)),
        "trees": lambda: accelerator.gather({"a": 1} if odd else {"b": 1}),
        "operations": lambda: accelerator.reduce(np.ones(3)) if odd else accelerator.gather(np.ones(3)),
        "reductions": lambda: accelerator.reduce(1, "max" if odd else "min"),
        "barrier": lambda: accelerator.wait_for_everyone() if odd else accelerator.gather_object(1),
        "other dimensions": lambda: accelerator.pad_across_processes(np.ones((2, 3 + odd))),
        "a bad leaf": lambda: accelerator.gather("text" if odd else 1),
        "bad leaves": lambda: accelerator.gather({"name": "text"}),
        "padding": lambda: accelerator.pad_across_processes(np.ones(2, np.uint8), pad_value=-1),
        "predictions": lambda: predict(state, {"x": np.ones((4, 4))} | ({"weight": np.ones(4)} if odd else {})),
        "no such process": lambda: accelerator.broadcast(1, from_process=9),
        "no such reduction": lambda: accelerator.reduce(1, "median"),  # type: ignore[arg-type]
    }
    return {name: outcome(attempt) for name, attempt in attempts.items()}


def batch_sizes(accelerator: ct.Accelerator) -> dict[str, Any]:
    """The last process has too little memory; the others are done, wait for it, or see another error."""
    zeros = importlib.import_module({"jax": "jax.numpy", "torch": "torch"}[accelerator.backend]).zeros
    sizes: list[int] = []
    devices = accelerator.device_count

    def run(batch_size: int, accumulate_steps: int, others: str) -> list[int]:
        sizes.append(batch_size // devices)
        if accelerator.is_last_process and batch_size > 2 * devices:
            zeros((2**25, 2**25))
        if others == "wait":
            accelerator.wait_for_everyone()
        if others == "fail" and accelerator.process_index == 0:
            raise KeyError("a bug")
        return [batch_size // devices, accumulate_steps]

    find = ct.find_batch_size(run, accelerator=accelerator, starting_batch_size=8 * devices)
    found: dict[str, Any] = {others: find(others) for others in ("go on", "wait")}
    try:
        found["fail"] = outcome(lambda: find("fail"))
    except KeyError as error:
        found["fail"] = f"KeyError: {error}"
    odd = outcome(lambda: ct.find_batch_size(run, accelerator=accelerator, starting_batch_size=devices + 1))
    return found | {"sizes": sizes, "odd": odd}


def debugging(backend: str) -> dict[str, str]:
    """With `debug` the steps agree too; and processes that were set up differently are refused."""
    accelerator = ct.Accelerator(backend, debug=True)
    odd = accelerator.is_last_process
    model = ct.models.build("mlp", ct.models.MLPConfig(in_features=4, hidden=(4,), out_features=2), accelerator)
    state = accelerator.prepare(model, ct.sgd(0.1))
    step = accelerator.train_step(lambda model, batch, ops: ops.cross_entropy(model(batch["x"]), batch["y"]))
    shape = accelerator.device_count

    def batch(rows: int) -> dict[str, np.ndarray]:
        return {"x": np.ones((rows, 4)), "y": np.zeros(rows, int)}

    attempts: dict[str, Callable[[], Any]] = {
        "batches": lambda: step(state, batch(2 * shape if odd else shape)),
        "a step and a gather": lambda: accelerator.gather(1) if odd else step(state, batch(shape)),
        "a bad batch": lambda: step(state, {} if odd else batch(shape)),
        "seeds": lambda: ct.Accelerator(backend, seed=7 if odd else 3),
    }
    refused = {name: outcome(attempt) for name, attempt in attempts.items()}
    return refused | {"loss": f"{step(state, batch(shape))['loss'] > 0} at step {state.step}"}


def spanning(accelerator: ct.Accelerator) -> dict[str, Any]:
    """JAX arrays that span processes: whole from gather, one value to reduce, refused where they are split."""
    import jax

    batch = next(iter(accelerator.loader({"x": np.arange(40.0).reshape(20, 2)}, batch_size=20)))
    with jax.enable_x64(True):
        total = batch["x"].sum()
    return {
        "whole": accelerator.gather({"x": batch["x"], "own": accelerator.process_index})["x"].tolist(),
        "own": accelerator.gather((batch["x"], accelerator.process_index))[1].tolist(),
        "total": [accelerator.reduce(total).tolist(), accelerator.gather(total).tolist()],
        "refused": outcome(lambda: accelerator.broadcast({"x": batch["x"]})),
        "beside own rows": outcome(lambda: accelerator.to_device({**batch, "y": np.ones(10)})),
    }


def start(backend: str, places: list[str]) -> None:
    if backend == "jax":
        import jax

        processes, index, port = map(int, places)
        jax.config.update("jax_num_cpu_devices", 2)
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, index)


def main(backend: str, folder: Path, places: list[str]) -> None:
    start(backend, places)
    accelerator = ct.Accelerator(backend, precision="fp64")
    results = {
        "identity": identity(accelerator, folder),
        "order": order(accelerator, folder),
        "trees": scenarios.wrong_trees(accelerator),
        "objects": objects(accelerator),
        "split": split(accelerator),
        "metrics": metrics(accelerator),
        "augmented": augmented(accelerator, scenarios.images()),
        "augmented, resident": augmented(accelerator, accelerator.resident(scenarios.images())),
        "mismatches": mismatches(accelerator),
        "batch sizes": batch_sizes(accelerator),
        "debug": debugging(backend),
        "by hand": [scenarios.by_hand(accelerator, native) for native in (False, True)],
        "statistics": scenarios.statistics(accelerator),
        "spanning": spanning(accelerator) if backend == "jax" else {},
    }
    (folder / f"{accelerator.process_index}.json").write_text(json.dumps(results))
    accelerator.wait_for_everyone()
    # At interpreter exit a rank that is done may abort the others.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
