"""Steps that torch compiles: the losses of those that it does not, what is compiled how often, and what is refused.

But for one test the compiler is torch's `aot_eager`, which traces and differentiates as Inductor does, in a tenth of
the time, and runs what it traced as it is.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity_tests import starting
from parity_tests.conformance.tasks import DROPOUT_MLP, GPT, MLP, RESNET9, images, loss_fn, prepared, tokens, worst

import crosstrain as ct
from crosstrain_torch import step as steps

BOUND, STEPS = 1e-10, 6
OPTIMIZERS = {
    "adamw": ct.adamw(ct.one_cycle(1e-2, STEPS, final_div=10.0), weight_decay=0.1, groups=(ct.undecayed("bias"),)),
    "adam": ct.adam(1e-2, weight_decay=0.1, betas=(ct.one_cycle_momentum(STEPS), 0.99)),
    "sgd": ct.sgd(ct.one_cycle(0.05, STEPS), momentum=ct.one_cycle_momentum(STEPS), nesterov=True, weight_decay=1e-3),
    "plain sgd": ct.sgd(0.1),
    "lion": ct.lion(1e-3, weight_decay=0.1),
    "muon": ct.muon(0.02),  # has no update for compilers
}

# Where torch cannot trace on it looks at all tensors that are there; Inductor imports what torch itself deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(steps.COMPILE_OPTIONS, "backend", "aot_eager")
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compilations() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def run(config: Any, optimizer: ct.OptimizerSpec, precision: str = "fp64", **options: Any) -> tuple[Any, np.ndarray]:
    """The state after a few steps, and loss, norm and accuracy of each."""
    accelerator = ct.Accelerator("torch", precision=precision)
    state = prepared(accelerator, config, optimizer, average=ct.ema(0.9))
    step = accelerator.train_step(loss_fn, clip_norm=0.5, **options)
    batches = [(tokens if config is GPT else images)(8, seed) for seed in range(STEPS)]
    found = [step(state, batch) for batch in batches]
    return state, np.array(
        [[each[name] for name in ("loss", "grad_norm", "accuracy", "learning_rate")] for each in found]
    )


def assert_same(config: Any, optimizer: ct.OptimizerSpec, compiled: Any, **options: Any) -> None:
    (state, values), (other, expected) = (run(config, optimizer, compile=c, **options) for c in (compiled, False))
    np.testing.assert_allclose(values, expected, rtol=BOUND, atol=1e-14)
    mine, theirs = state.snapshot(), other.snapshot()
    assert mine.step == theirs.step == STEPS
    assert worst(mine.params, theirs.params) <= BOUND
    assert worst(mine.averages, theirs.averages) <= BOUND
    assert worst(mine.buffers, theirs.buffers) <= BOUND if theirs.buffers else not mine.buffers
    assert mine.moments.keys() == theirs.moments.keys()
    for slot in theirs.moments:
        assert worst(mine.moments[slot], theirs.moments[slot]) <= BOUND


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "optimizer",
    [pytest.param(each, id=name, marks=[pytest.mark.slow] * (name != "adamw")) for name, each in OPTIMIZERS.items()],
)
def test_whole_steps_train_as_eager_ones_and_are_compiled_once(optimizer: ct.OptimizerSpec) -> None:
    """With dropout, a rate and a momentum that are new in every step, groups, clipping and an average."""
    before = compilations()
    assert_same(DROPOUT_MLP, optimizer, "step")
    assert compilations() - before == 1


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("compiled", ["model", "step"])
@pytest.mark.parametrize(("config", "count"), [(RESNET9, 2), (GPT, 1), (DROPOUT_MLP, 4)], ids=["resnet9", "gpt", "mlp"])
def test_models_and_micro_batches(config: Any, count: int, compiled: str) -> None:
    assert_same(config, OPTIMIZERS["adamw"], compiled, accumulate_steps=count)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", ["model", "step"])
def test_inductor(compiled: str) -> None:
    torch.compiler.reset()
    assert_same(MLP, OPTIMIZERS["adamw"], compiled)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_compiled_model_may_use_further_states() -> None:
    def distilled(model: Any, batch: Any, ops: ct.Ops, teacher: Any) -> Any:
        return ops.kl_div(teacher(batch["image"]), model(batch["image"]))

    losses = []
    for compiled in (False, "model"):
        accelerator = ct.Accelerator("torch", precision="fp64")
        state, teacher = prepared(accelerator, MLP), prepared(accelerator, RESNET9)
        step = accelerator.train_step(distilled, compile=compiled)
        losses.append([step(state, images(8, seed), teacher)["loss"] for seed in range(3)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=BOUND)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("compiled", ["model", "step"])
@pytest.mark.parametrize("precision", ["bf16", "bf16-autocast"])
def test_bfloat16_within_its_rounding(precision: str, compiled: str) -> None:
    (_, values), (_, expected) = (run(GPT, ct.adamw(1e-3), precision, compile=each) for each in (compiled, False))
    np.testing.assert_allclose(values[:, 0], expected[:, 0], rtol=2e-2)
    np.testing.assert_allclose(values[:, 1], expected[:, 1], rtol=5e-2)


SCALE = 1.0


@pytest.mark.usefixtures("quick")
def test_what_a_user_changes_between_steps_is_seen() -> None:
    """A number of the script and an attribute of the model: the compiler's checks of these stay."""
    model = torch.nn.Sequential(torch.nn.Linear(64, 10), torch.nn.LeakyReLU(0.0))

    def scaled(model: Any, batch: Any, ops: ct.Ops) -> Any:
        return SCALE * ops.mean(model(batch["image"].flatten(1))).sum

    accelerator = ct.Accelerator("torch")
    state, batch = accelerator.prepare(model, ct.sgd(0.0)), images(8)
    step = accelerator.train_step(scaled, compile="step")
    first = step(state, batch)["loss"]
    globals()["SCALE"] = 2.0
    try:
        np.testing.assert_allclose(step(state, batch)["loss"], 2.0 * first, rtol=1e-6)
    finally:
        globals()["SCALE"] = 1.0
    model[1].negative_slope = 1.0
    linear = step(state, batch)["loss"]
    assert linear < first - 1e-3
    np.testing.assert_allclose(linear, accelerator.train_step(scaled)(state, batch)["loss"], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_compiled_and_eager_steps_may_take_turns() -> None:
    """Also where parameters stand still in between, and over a save: their update counts go on."""
    frozen = replace(OPTIMIZERS["adamw"], layers=(ct.LayerGroup(match=r"^layers\.0", frozen=((1, 3),)),))
    states = []
    for turns in ((False,), ("step", False)):
        accelerator = ct.Accelerator("torch", precision="fp64")
        state = prepared(accelerator, MLP, frozen)
        choices = [accelerator.train_step(loss_fn, compile=each) for each in turns]
        for index in range(STEPS):
            if index == 4:
                put_back = state.keep()
                choices[0](state, images(8, 9))
                put_back()
            choices[index % len(choices)](state, images(8, index))
        states.append(state.snapshot())
    assert worst(states[1].params, states[0].params) <= BOUND


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_loss_function_that_cannot_be_traced_whole_trains_the_same() -> None:
    def broken(model: Any, batch: Any, ops: ct.Ops) -> Any:
        logits = model(batch["image"])
        torch._dynamo.graph_break()
        return ops.cross_entropy(logits, batch["label"])

    losses = []
    for compiled in (False, "model", "step"):
        accelerator = ct.Accelerator("torch", precision="fp64")
        state = prepared(accelerator, MLP)
        step = accelerator.train_step(broken, compile=compiled)
        losses.append([step(state, images(8, seed))["loss"] for seed in range(3)])
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=BOUND)


@pytest.mark.usefixtures("quick")
def test_errors_in_loss_functions_come_through() -> None:
    accelerator = ct.Accelerator("torch")
    step = accelerator.train_step(lambda model, batch, ops: model(batch["image"]), compile="step")
    with pytest.raises(ct.LossError, match="must be a scalar, got shape"):
        step(prepared(accelerator, MLP), images(8))


def test_what_cannot_be_compiled_is_refused() -> None:
    accelerator = ct.Accelerator("torch")
    with pytest.raises(ct.ConfigError, match="compile must be False, 'model' or 'step', got compile='all'"):
        accelerator.train_step(loss_fn, compile="all")  # type: ignore[arg-type]
    with pytest.raises(ct.ConfigError, match="compile must be False with remat, got compile='model' and remat='full'"):
        accelerator.train_step(loss_fn, compile="model", remat="full")
    state, other = prepared(accelerator, MLP), prepared(accelerator, MLP)
    with pytest.raises(ct.ConfigError, match="compile must be False or 'model' with further states"):
        accelerator.train_step(lambda model, batch, ops, _: 0.0, compile="step")(state, images(8), other)


@pytest.mark.slow
def test_two_processes_compile_the_model(tmp_path: Path) -> None:
    worker = Path(__file__).parent / "compiled_worker.py"
    starting.run(starting.torchrun(2, worker, tmp_path), timeout_s=600)
    found = np.load(tmp_path / "found.npz")
    np.testing.assert_allclose(found["model"], found["False"], rtol=BOUND)
    assert "compile must be False or 'model' in several processes, got compile='step' with data=2" in str(
        found["refused"]
    )


CACHED = """
import sys
sys.path.insert(0, {root!r})
import torch
from parity_tests.conformance.tasks import MLP, images, loss_fn, prepared
import crosstrain as ct
accelerator = ct.Accelerator("torch")
step = accelerator.train_step(loss_fn, compile="step")
step(prepared(accelerator, MLP), images(8))
counters = torch._dynamo.utils.counters
print(counters["aot_autograd"]["autograd_cache_hit"] + counters["inductor"]["fxgraph_cache_hit"])
"""


@pytest.mark.slow
def test_a_second_start_finds_the_compiled_step(tmp_path: Path) -> None:
    script = CACHED.format(root=str(Path(__file__).parents[2]))
    left_out = ("TORCHINDUCTOR_CACHE_DIR",)
    env = {name: value for name, value in os.environ.items() if name not in left_out}
    env["XDG_CACHE_HOME"] = str(tmp_path)
    found = []
    for _ in range(2):
        result = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
        found.append(int(result.stdout.split()[-1]))
    assert found[0] == 0 < found[1]
    assert any((tmp_path / "crosstrain" / "torch").iterdir())
