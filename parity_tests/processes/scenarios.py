"""Trees that every process can draw for every other one, so that each can say what a collective has to give."""

import hashlib
import importlib
from typing import Any, NamedTuple

import numpy as np

import crosstrain as ct

SEEDS = 30
TYPES = ("float32", "float64", "float16", "int8", "int32", "uint64", "bool", "complex64")


class Pair(NamedTuple):
    """A named tuple among the trees."""

    left: Any
    right: Any


def draw(seed: int, process: int) -> Any:
    """A tree whose structure, shapes and types follow from `seed`, and whose values from `process` too."""
    shape_of, values_of = np.random.default_rng(seed), np.random.default_rng((seed, process))

    def leaf() -> Any:
        dtype = np.dtype(shape_of.choice(TYPES))
        # Up to some thousands of numbers: more than the first message of an exchange holds.
        shape = tuple(int(size) for size in shape_of.choice([0, 1, 2, 3, 40], size=shape_of.integers(0, 4)))
        values = values_of.normal(size=shape) * 50
        return np.asarray(values > 0 if dtype.kind == "b" else np.abs(values)).astype(dtype)

    def tree(depth: int) -> Any:
        kind = shape_of.integers(0, 6) if depth else 5
        if kind == 5:
            return leaf()
        children = [tree(depth - 1) for _ in range(2)]
        as_kind = (
            list,
            tuple,
            lambda two: Pair(*two),
            lambda two: dict(zip("ba", two, strict=True)),
            lambda two: [None, *two],
        )
        return as_kind[kind](children)

    return [tree(3), float(values_of.normal()), int(values_of.integers(9)), bool(values_of.integers(2))]


def leaves(tree: Any) -> list[Any]:
    """In the order in which the tree holds them."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        return [leaf for child in tree for leaf in leaves(child)]
    return [] if tree is None else [tree]


def kinds(tree: Any) -> Any:
    """The structure alone: containers, keys and Nones."""
    if isinstance(tree, dict):
        return {name: kinds(child) for name, child in tree.items()}
    if isinstance(tree, list | tuple):
        return [type(tree).__name__, *(kinds(child) for child in tree)]
    return tree is None


def expected(operation: str, parts: list[Any], source: int) -> np.ndarray:
    """What NumPy says about one leaf of all processes."""
    arrays = [np.asarray(part) for part in parts]
    if operation == "gather":
        return np.concatenate([np.atleast_1d(each) for each in arrays])
    if operation == "broadcast":
        return arrays[source]
    stacked = np.stack(arrays)
    if operation in ("max", "min"):
        return getattr(stacked, operation)(axis=0)
    exact = stacked.astype({"f": np.float64, "c": np.complex128}.get(stacked.dtype.kind, stacked.dtype))
    total = exact[0] * 1 if stacked.dtype.kind != "b" else exact[0].astype(np.int64)
    for each in exact[1:]:
        total = np.sum([total, each], axis=0)
    total = total / len(arrays) if operation == "mean" else total
    return np.asarray(total).astype(stacked.dtype) if stacked.dtype.kind in "fc" else np.asarray(total)


def wrong_trees(accelerator: ct.Accelerator) -> dict[str, Any]:
    """Every operation on every tree against NumPy, to the bit; how many leaves were compared, and those that differ."""
    compared, wrong = 0, []
    processes = range(accelerator.process_count)
    for seed in range(SEEDS):
        drawn = [draw(seed, process) for process in processes]
        mine, source = drawn[accelerator.process_index], seed % len(drawn)
        results = {
            "gather": accelerator.gather(mine),
            "broadcast": accelerator.broadcast(mine, source),
            **{name: accelerator.reduce(mine, name) for name in ("sum", "mean", "max", "min")},
        }
        for operation, result in results.items():
            if kinds(result) != kinds(mine):
                wrong.append(f"{operation} of tree {seed} has another structure")
            for found, *parts in zip(leaves(result), *map(leaves, drawn), strict=True):
                right = expected(operation, parts, source)
                same = found.dtype.name == _name(right, operation, parts) and found.shape == right.shape
                compared += 1
                if not (same and np.array_equal(found, right.astype(found.dtype))):
                    wrong.append(f"{operation} of tree {seed}: {found!r} for {right!r}")
    return {"compared": compared, "wrong": wrong[:5], "padded": padded(accelerator)}


def _name(right: np.ndarray, operation: str, parts: list[Any]) -> str:
    """Sums of integers are 64-bit integers of their sign; everything else has the type that NumPy gives."""
    kind = np.asarray(parts[0]).dtype.kind
    return (
        {"b": "int64", "i": "int64", "u": "uint64"}.get(kind, right.dtype.name)
        if operation == "sum"
        else right.dtype.name
    )


def padded(accelerator: ct.Accelerator) -> list[Any]:
    """Rows of different numbers in each process, padded in every way, then gathered."""
    index = accelerator.process_index
    rows = np.full((index + 1, 2), index + 1, np.float32)
    ways: tuple[dict[str, Any], ...] = ({}, {"pad_value": -1, "pad_first": True}, {"dim": -2})
    tree = {"rows": rows, "scalar": 7}
    sizes = [{k: list(v.shape) for k, v in accelerator.pad_across_processes(tree, **way).items()} for way in ways]
    first = accelerator.gather(accelerator.pad_across_processes(rows, pad_value=-1, pad_first=True))
    last = accelerator.gather(accelerator.pad_across_processes(rows.T, dim=1))
    return [sizes, first[:, 0].tolist(), last.tolist()]


AUGMENTED: dict[str, Any] = {
    "batch_size": 12,
    "shuffle": True,
    "seed": 3,
    "transform": ct.data.compose(
        ct.data.colour_jitter(contrast=0.4),
        ct.data.random_crop(2),
        ct.data.flip(),
        ct.data.normalise(0.5, 0.2),
        ct.data.mixup(),
    ),
}


def images() -> dict[str, np.ndarray]:
    """31 examples: the last batch is padded."""
    return {
        "image": np.random.default_rng(0).integers(0, 256, (31, 6, 5, 3), dtype=np.uint8),
        "label": np.arange(31),
    }


def digest(batch: dict[str, np.ndarray]) -> str:
    """Of the types, shapes and bytes of a batch."""
    parts = [(name, str(each.dtype), each.shape, each.tobytes()) for name, each in sorted(batch.items())]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def local_rows(values: Any) -> np.ndarray:
    """This process's rows of a batch, on the host."""
    if hasattr(values, "addressable_shards"):
        shards = sorted(values.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate([np.asarray(shard.data) for shard in shards])
    return values.numpy()


def statistics(accelerator: ct.Accelerator) -> dict[str, list[float]]:
    """What `ct.callbacks.Statistics` sees of two batches: of every activation and gradient."""
    config = ct.models.MLPConfig(in_features=4, hidden=(4,), out_features=2, dropout=0.5)
    state = accelerator.prepare(ct.models.build("mlp", config, accelerator), ct.sgd(0.1))
    drawn = np.random.default_rng(0)
    source = {"x": drawn.normal(size=(16, 4)), "y": drawn.integers(0, 2, 16)}
    looks = ct.callbacks.Statistics(every=1)
    trainer = ct.Trainer(
        accelerator,
        state,
        lambda model, batch, ops: ops.cross_entropy(model(batch["x"]), batch["y"]),
        callbacks=[looks],
        progress=False,
    )
    trainer.fit(accelerator.loader(source, batch_size=8), epochs=1)
    return {
        f"{seen.step}/{kind}/{name}": [each.mean, each.std, each.near_zero, each.norm]
        for seen in looks.looks
        for kind, found in (("activation", seen.activations), ("gradient", seen.gradients))
        for name, each in found.items()
    }


def by_hand(accelerator: ct.Accelerator, native: bool) -> list[float]:
    """Losses of steps on batches by hand, as arrays of the host or the engine's own; and the sum of all weights."""
    config = ct.models.MLPConfig(in_features=4, hidden=(4,), out_features=2)
    state = accelerator.prepare(ct.models.build("mlp", config, accelerator), ct.sgd(0.5))
    step = accelerator.train_step(lambda model, batch, ops: ops.cross_entropy(model(batch["x"]), batch["y"]))
    drawn = np.random.default_rng(0)
    whole = {"x": drawn.integers(-3, 4, (8, 4)) / 4, "y": drawn.integers(0, 2, 8)}
    asarray = importlib.import_module({"jax": "jax.numpy", "torch": "torch"}[accelerator.backend]).asarray
    with accelerator.split_between_processes(whole) as rows:
        batch = {name: asarray(values) for name, values in rows.items()} if native else rows
        losses = [step(state, batch)["loss"] for _ in range(3)]
    return [*losses, sum(float(values.sum()) for values in state.snapshot().params.values())]
