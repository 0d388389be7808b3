"""What a step costs as the work grows (sizes, tensors, micro-batches, callbacks), beside plain loops.

    python examples/benchmarks/growth.py              # the table of docs/benchmarks.md, and docs/growth.svg
    python examples/benchmarks/growth.py --tiny       # every row once, in sizes that say nothing

Each row is one model in one process; crosstrain and the plain loop (JAX: flat donated leaves in one compiled call;
torch: eager, with the fused optimizer) take turns, block after block, and their medians are compared. Metrics and
callbacks are compared with a step of crosstrain that has none.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- growth: begin -->", "<!-- growth: end -->"
RATE, DECAY = 1e-3, 0.01
BLOCK_S, ROUNDS = 0.3, 9

AXES = {
    "parameters": (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000),
    "tensors": (10, 100, 1_000, 5_000),
    "micro-batches": (1, 2, 4, 8, 16),
    "batch": (8, 32, 128, 512, 2048),
    "metrics": (0, 1, 4, 16),
    "callbacks": (0, 1, 4, 16),
}
TINY = {
    "parameters": (10_000, 20_000),
    "tensors": (10, 20),
    "micro-batches": (1, 2),
    "batch": (8, 16),
    "metrics": (0, 2),
    "callbacks": (0, 2),
}
WIDTH, CLASSES = 64, 10

Block = Callable[[int], None]
"""Takes so many steps, and waits for the last one."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row: a point on one axis, on one engine."""

    axis: str
    value: int
    engine: str

    @property
    def hidden(self) -> int:
        """Width of the hidden layer; 128 but for the axis of parameters."""
        return max(1, self.value // (WIDTH + CLASSES + 1)) if self.axis == "parameters" else 128

    @property
    def extra(self) -> int:
        """Vectors that the model adds up, beside its four other tensors."""
        return max(0, self.value - 4) if self.axis == "tensors" else 0

    @property
    def micro_batches(self) -> int:
        """Per step."""
        return self.value if self.axis == "micro-batches" else 1

    @property
    def batch(self) -> int:
        """Examples of a step; a micro-batch has 32."""
        return self.value if self.axis == "batch" else 32 * self.micro_batches

    def batches(self) -> list[dict[str, np.ndarray]]:
        """A few different ones."""
        random = np.random.default_rng(0)
        return [
            {
                "x": random.standard_normal((self.batch, WIDTH), np.float32),
                "y": random.integers(0, CLASSES, self.batch),
            }
            for _ in range(8)
        ]


def jax_model(case: Case):
    import jax.numpy as jnp
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.first, self.last = (
                nnx.Linear(WIDTH, case.hidden, rngs=rngs),
                nnx.Linear(case.hidden, CLASSES, rngs=rngs),
            )
            self.extra = nnx.List([nnx.Param(jnp.ones(WIDTH) / case.extra) for _ in range(case.extra)])

        def __call__(self, x):
            if case.extra:
                x = x * jnp.stack([each[...] for each in self.extra]).sum(0)
            return self.last(nnx.relu(self.first(x)))

    return Model()


def torch_model(case: Case):
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(WIDTH, case.hidden), nn.Linear(case.hidden, CLASSES)
            self.extra = nn.ParameterList([torch.ones(WIDTH) / case.extra for _ in range(case.extra)])

        def forward(self, x):
            if case.extra:
                x = x * torch.stack(list(self.extra)).sum(0)
            return self.last(torch.relu(self.first(x)))

    return Model()


def raw_jax(case: Case) -> Block:
    import jax
    import optax
    from flax import nnx

    graph, params, rest = nnx.split(jax_model(case), nnx.Param, ...)
    leaves, tree = jax.tree.flatten(params)
    change = optax.adamw(RATE, weight_decay=DECAY)
    moments, moments_tree = jax.tree.flatten(change.init(leaves))
    count = case.micro_batches

    def objective(leaves, x, y):
        model = nnx.merge(graph, jax.tree.unflatten(tree, leaves), rest)
        return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

    def step(carry, x, y):
        leaves, moments = carry
        if count == 1:
            loss, grads = jax.value_and_grad(objective)(leaves, x, y)
        else:

            def add(total, part):
                return jax.tree.map(jax.numpy.add, total, jax.value_and_grad(objective)(leaves, *part)), None

            parts = jax.tree.map(lambda each: each.reshape(count, -1, *each.shape[1:]), (x, y))
            zero = (0.0, jax.tree.map(jax.numpy.zeros_like, leaves))
            loss, grads = jax.tree.map(lambda each: each / count, jax.lax.scan(add, zero, parts)[0])
        updates, state = change.update(grads, jax.tree.unflatten(moments_tree, moments), leaves)
        return (optax.apply_updates(leaves, updates), jax.tree.leaves(state)), loss

    compiled, carry = jax.jit(step, donate_argnums=0), (leaves, moments)
    batches = itertools.cycle([jax.device_put((each["x"], each["y"].astype(np.int32))) for each in case.batches()])

    def block(steps: int) -> None:
        nonlocal carry
        for batch in itertools.islice(batches, steps):
            carry, loss = compiled(carry, *batch)
        loss.block_until_ready()

    return block


def raw_torch(case: Case) -> Block:
    import torch
    import torch.nn.functional as F

    model = torch_model(case)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY, fused=True)
    pairs = [(torch.from_numpy(each["x"]), torch.from_numpy(each["y"])) for each in case.batches()]
    batches = itertools.cycle([tuple(part.chunk(case.micro_batches) for part in pair) for pair in pairs])

    def block(steps: int) -> None:
        for xs, ys in itertools.islice(batches, steps):
            for x, y in zip(xs, ys, strict=True):
                loss = F.cross_entropy(model(x), y)
                (loss / case.micro_batches).backward()
            optimizer.step()
            optimizer.zero_grad()
        loss.item()

    return block


def own(case: Case, *, metrics: int = 0, callbacks: int = 0, fit: bool = False) -> Block:
    """crosstrain: a compiled step in a loop, or with `fit` a `Trainer` that reads its metrics every ten steps."""
    import crosstrain as ct

    def loss_fn(model, batch, ops):
        logits = model(batch["x"])
        loss = ops.cross_entropy(logits, batch["y"])
        return (
            (loss, {f"metric{index}": ops.mean(logits[:, index % CLASSES]) for index in range(metrics)})
            if metrics
            else loss
        )

    accelerator = ct.Accelerator(case.engine)
    model = jax_model(case) if case.engine == "jax" else torch_model(case)
    state = accelerator.prepare(model, ct.adamw(RATE, weight_decay=DECAY))
    if fit:
        data = {name: np.concatenate([each[name] for each in case.batches()]) for name in ("x", "y")}
        loader = accelerator.loader(data, batch_size=case.batch)
        options = {"callbacks": [ct.Callback() for _ in range(callbacks)], "progress": False, "log_every": 10}
        trainer = ct.Trainer(accelerator, state, loss_fn, **options)
        return lambda steps: trainer.fit(loader, steps=steps)
    step = accelerator.train_step(loss_fn, accumulate_steps=case.micro_batches)
    batches = itertools.cycle([accelerator.to_device(each) for each in case.batches()])

    def block(steps: int) -> None:
        for batch in itertools.islice(batches, steps):
            found = step(state, batch)
        _ = found["loss"]

    return block


def contestants(case: Case) -> tuple[Block, Block]:
    """crosstrain, and what it is compared with."""
    if case.axis == "metrics":
        return own(case, metrics=case.value), own(case)
    if case.axis == "callbacks":
        return own(case, callbacks=case.value, fit=True), own(case, fit=True)
    return own(case), (raw_jax if case.engine == "jax" else raw_torch)(case)


def measure(case: Case, tiny: bool) -> tuple[float, float]:
    """Median seconds per step of crosstrain, and of what it is compared with."""
    blocks = contestants(case)
    for block in blocks:
        block(2)  # compiles
    start = time.perf_counter()
    blocks[1](2)
    steps = 2 if tiny else max(3, round(BLOCK_S / ((time.perf_counter() - start) / 2)))
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(2 if tiny else ROUNDS):
        for block, seconds in zip(blocks, found, strict=True):
            start = time.perf_counter()
            block(steps)
            seconds.append((time.perf_counter() - start) / steps)
    return statistics.median(found[0]), statistics.median(found[1])


def apart(case: Case, tiny: bool) -> tuple[float, float]:
    """`measure` in a process of its own, with two threads."""
    arguments = ["--one", case.axis, str(case.value), case.engine, *(["--tiny"] if tiny else [])]
    result = subprocess.run(
        [sys.executable, __file__, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    ours, theirs = json.loads(result.stdout.splitlines()[-1])
    return ours, theirs


def table(found: dict[Case, tuple[float, float]]) -> Iterator[str]:
    """Microseconds per step, and ratios."""
    yield "| what grows | | jax, us | of its base | torch, us | of its base |"
    yield "|---|---|---|---|---|---|"
    for axis, value in dict.fromkeys((case.axis, case.value) for case in found):
        cells = []
        for engine in ("jax", "torch"):
            ours, theirs = found[Case(axis=axis, value=value, engine=engine)]
            cells += [f"{ours * 1e6:.0f}", f"{ours / theirs:.2f}"]
        yield f"| {axis} | {value:,} | {' | '.join(cells)} |"


def plot(found: dict[Case, tuple[float, float]], path: Path) -> None:
    """One panel for each axis: crosstrain and its base, on both engines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    axes = list(dict.fromkeys(case.axis for case in found))
    figure, panels = plt.subplots(2, 3, figsize=(11, 6), layout="constrained")
    for axis, panel in zip(axes, panels.flat, strict=False):
        for engine, colour in (("jax", "tab:blue"), ("torch", "tab:orange")):
            points = [
                (case.value, *times) for case, times in found.items() if (case.axis, case.engine) == (axis, engine)
            ]
            values, ours, theirs = (np.array(each) for each in zip(*points, strict=True))
            panel.plot(values, ours * 1e6, "o-", color=colour, label=f"{engine}, crosstrain")
            panel.plot(values, theirs * 1e6, "x--", color=colour, alpha=0.6, label=f"{engine}, base")
        panel.set(title=axis, ylabel="us per step", yscale="log")
        panel.set_xscale("symlog" if 0 in values else "log")
    panels.flat[0].legend(fontsize=7)
    figure.savefig(path)
    plt.close(figure)


def main(
    axes: list[str] = list(AXES),  # noqa: B006 (tyro reads the default)
    tiny: bool = False,
    save: bool = True,
    one: tuple[str, int, str] | None = None,
) -> None:
    """Measures and prints.

    Args:
        axes: which of them.
        tiny: small sizes and few steps, to see that everything runs; saves nothing.
        save: write the table into docs/benchmarks.md and the plots into docs/growth.svg.
        one: axis, value and engine of the only row, in this process; prints two times in seconds as JSON.
    """
    if one is not None:
        print(json.dumps(measure(Case(axis=one[0], value=one[1], engine=one[2]), tiny)))
        return
    sizes = TINY if tiny else AXES
    found = {}
    for axis in axes:
        for value in sizes[axis]:
            for engine in ("jax", "torch"):
                case = Case(axis=axis, value=value, engine=engine)
                found[case] = apart(case, tiny)
                print(
                    axis, value, engine, *(f"{each * 1e6:.1f} us" for each in found[case]), file=sys.stderr, flush=True
                )
    lines = list(table(found))
    print(*lines, sep="\n")
    if save and not tiny:
        plot(found, PAGE.parent / "growth.svg")
        page = PAGE.read_text()
        head, tail = page[: page.index(BEGIN) + len(BEGIN)], page[page.index(END) :]
        PAGE.write_text("\n".join([head, "", *lines, "", "![](growth.svg)", "", tail]))


if __name__ == "__main__":
    tyro.cli(main)
