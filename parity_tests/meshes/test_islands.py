"""Islands that train alone and meet in outer steps: two processes against the same written out in NumPy."""

from pathlib import Path

import numpy as np
import pytest

import crosstrain as ct
from crosstrain.data.order import EpochOrder
from parity_tests import layouts, starting
from parity_tests.meshes import islands, launching

BOUND = 1e-12
Islands = list[dict[str, dict[str, np.ndarray]]]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Islands]:
    """Backend -> what each island found, by run and name."""
    return {backend: _run(backend, tmp_path_factory.mktemp(backend)) for backend in ("jax", "torch")}


def _run(backend: str, folder: Path) -> Islands:
    command = ["-m", islands.__name__, backend, folder]
    starting.run(*starting.commands(backend, islands.ISLANDS, *command), cwd=launching.ROOT)
    found: Islands = []
    for index in range(islands.ISLANDS):
        of_run: dict[str, dict[str, np.ndarray]] = {}
        for key, values in layouts.read(folder, index).items():
            run, _, name = key.partition("|" if "|" in key else "/")
            of_run.setdefault(run, {})[name] = values
        found.append(of_run)
    return found


def _simulated(backend: str, spec: ct.DiLoCo) -> list[dict[str, np.ndarray]]:
    """The islands one after the other here; examples of the others weigh 0, so that rows keep their places."""
    accelerator = ct.Accelerator(backend, precision="fp64", platform="cpu", mesh=ct.MeshSpec())
    states = [islands.prepared(accelerator) for _ in range(islands.ISLANDS)]
    step = accelerator.train_step(layouts.loss_fn)
    start = states[0].snapshot().params
    velocity = {name: np.zeros_like(values) for name, values in start.items()}
    data, size = layouts.data_of("mlp"), islands.BATCH // islands.ISLANDS
    losses: list[list[float]] = [[] for _ in states]
    rows = [
        batch.rows
        for epoch in range(2)
        for batch in EpochOrder(83, islands.BATCH, islands.BATCH, order=(0, epoch), drop_last=True).batches()
    ]
    for count, chosen in enumerate(rows[: islands.STEPS], 1):
        for index, state in enumerate(states):
            weight = np.zeros(islands.BATCH)
            weight[index * size : (index + 1) * size] = 1
            batch = {name: values[chosen] for name, values in data.items()} | {"weight": weight}
            losses[index].append(step(state, batch)["loss"])
        if count % spec.every and count < islands.STEPS:
            continue
        snapshots = [state.snapshot() for state in states]
        for name in start:
            gradient = start[name] - np.mean([each.params[name] for each in snapshots], axis=0)
            velocity[name] = spec.momentum * velocity[name] + gradient
            look = gradient + spec.momentum * velocity[name] if spec.nesterov else velocity[name]
            start[name] = start[name] - spec.learning_rate * look
        for state in states:
            kept = state.snapshot()
            for name, values in start.items():
                kept.params[name][...] = values
            state.load(kept)
    moments = [state.snapshot().moments for state in states]
    return [
        {
            "loss": np.array(losses[index]),
            **{f"param/{name}": values for name, values in start.items()},
            **{f"outer/velocity/{name}": values for name, values in velocity.items()},
            **{f"moment/{slot}/{name}": each for slot, kept in moments[index].items() for name, each in kept.items()},
        }
        for index in range(islands.ISLANDS)
    ]


@pytest.mark.parametrize("backend", ["jax", "torch"])
@pytest.mark.parametrize("name", islands.SPECS)
def test_two_processes_do_what_is_written_out_in_numpy(runs: dict[str, Islands], backend: str, name: str) -> None:
    expected = _simulated(backend, islands.SPECS[name])
    for found, simulated in zip(runs[backend], expected, strict=True):
        assert layouts.worst({key: found[name][key] for key in simulated}, simulated) <= BOUND
    assert not np.array_equal(runs[backend][0][name]["loss"], runs[backend][1][name]["loss"])


@pytest.mark.parametrize("name", islands.SPECS)
def test_engines_agree_and_islands_end_alike(runs: dict[str, Islands], name: str) -> None:
    for jax, torch in zip(runs["jax"], runs["torch"], strict=True):
        assert layouts.worst(jax[name], torch[name]) <= 1e-10
    for backend in runs:
        first, second = (each[name] for each in runs[backend])
        for key in first:
            if key.startswith(("param/", "outer/", "evaluation")):
                assert np.array_equal(first[key], second[key])


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_islands_go_on_from_snapshots_between_outer_steps(runs: dict[str, Islands], backend: str) -> None:
    for found in runs[backend]:
        assert layouts.worst(found["resumed"], found["diloco"]) <= BOUND


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_loss_that_is_not_finite_ends_the_run_of_all_islands(runs: dict[str, Islands], backend: str) -> None:
    for found in runs[backend]:
        assert str(found["watched"]["stop"]) == "loss=nan at optimizer step 2"
        assert found["watched"]["step"] == 3  # what is logged comes one step late


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_what_islands_cannot_do_is_refused(runs: dict[str, Islands], backend: str) -> None:
    for found in runs[backend]:
        said = {name: str(values) for name, values in found["refused"].items()}
        assert said["no islands"].startswith("ConfigError: OuterSteps must be used with islands")
        assert said["nothing left"].startswith("DataError: the last batch must have examples for each of the 2 islands")
        assert "got 3 before padding to 16" in said["nothing left"]
        assert said["checkpoints"].startswith(
            "ConfigError: checkpoints of a run must be of processes that train together"
        )
