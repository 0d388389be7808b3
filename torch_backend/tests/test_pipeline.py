"""A pipeline of two stages on torch: what each holds, loss functions that draw, bfloat16, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from parity_tests import layouts, starting
from parity_tests.meshes.odd_torch import noisy

import crosstrain as ct
from crosstrain.mesh import AXES
from crosstrain_torch.sharding import build_mesh, choose_device

WORKER = Path(__file__).parent / "pipeline_worker.py"


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.slow)], ids=lambda each: f"fsdp={each}")
def stages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    """What every process found."""
    folder, count = tmp_path_factory.mktemp("pipeline"), 2 * request.param
    starting.run(starting.torchrun(count, WORKER, folder, request.param))
    return [layouts.read(folder, index) for index in range(count)]


def test_a_stage_has_memory_for_its_blocks_only_and_knows_all(stages: list) -> None:
    for results in stages:
        whole = {name: each for name, each in results.items() if name.startswith("made|whole/")}
        assert len(whole) == 20
        for name, values in whole.items():
            assert np.array_equal(values, results[name.replace("whole", "by function")])
        for name in ("whole", "by function"):
            held, moments, planned, size = results[f"made|held {name}"].tolist()
            assert held == planned == moments // 2 < size


def test_what_a_loss_function_draws_is_the_same_at_both_ends(stages: list) -> None:
    for results in stages:
        assert results["noisy|loss"] == pytest.approx(noisy(ct.MeshSpec())["loss"], rel=1e-12)


def test_stages_compute_in_bfloat16_what_ddp_computes(stages: list) -> None:
    for results in stages:
        assert results["low pipeline|loss"] == pytest.approx(results["low data|loss"], rel=1e-3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "never",
            "LossError: a loss or prediction function must call the model exactly once on a pipeline, got no call",
        ),
        (
            "twice",
            "LossError: a loss or prediction function must call the model exactly once on a pipeline, got a second",
        ),
        ("twice, evaluated", "LossError: a loss or prediction function must call the model exactly once on a pipeline"),
        (
            "pieces",
            "LossError: a loss or prediction function must call the model itself on a pipeline, got a use of its",
        ),
        ("no loss", "LossError: loss must be a scalar, got shape (8, 8, 32)"),
        ("predictions", "LossError: a loss or prediction function must call the model exactly once on a pipeline"),
        ("too long", "ModelError: tokens must have at most max_seq_len=8 positions, got 16"),
        ("others", "ConfigError: a step over a pipeline must be given one state, got 1 more after the batch"),
        ("others, evaluated", "ConfigError: a step over a pipeline must be given one state, got 1 more"),
        (
            "micro-batches",
            "DataError: the batch must be a multiple of accumulate_steps on every process, got 8 examples",
        ),
        ("probe", "ConfigError: probe_step must see whole activations, got pipeline=2"),
        ("outside", "ModelError: a model on pipeline=2 must be called by a step, got a call outside of one"),
        ("layers", "ConfigError: pipeline must divide the number of blocks, got pipeline=2 for the 3 blocks of layers"),
        ("mlp", "ConfigError: pipeline=2 must cut a sequence of equal blocks into stages"),
        ("resnet9", "ConfigError: pipeline=2 must cut a sequence of equal blocks into stages"),
        ("own", "ConfigError: pipeline=2 must cut a sequence of equal blocks into stages"),
        ("lookalike", "ConfigError: a model must run in stages, got a Lookalike on pipeline=2"),
    ],
)
def test_what_a_pipeline_cannot_do_is_refused_on_every_stage(stages: list, name: str, message: str) -> None:
    for results in stages:
        assert str(results[f"refused|{name}"]).startswith(message), results[f"refused|{name}"]


def test_refusals_leave_nothing_behind(stages: list) -> None:
    for results in stages:
        after, fresh = results["refused|after"]
        assert after == fresh


def test_axes_that_do_not_go_together_are_refused() -> None:
    sizes = {axis: 2 if axis in ("expert", "pipeline") else 1 for axis in AXES}
    with pytest.raises(
        ct.ConfigError, match=r"pipeline goes together with .*, got expert=2, pipeline=2. Use 1 for exp"
    ):
        build_mesh(sizes, None, choose_device("cpu"))
