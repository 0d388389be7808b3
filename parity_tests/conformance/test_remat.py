"""Blocks that are computed again in the backward pass: the same numbers, in less memory."""

from typing import Any

import numpy as np
import pytest

import crosstrain as ct
from crosstrain.errors import ConfigError
from parity_tests.meshes import cases

from .tasks import MLP, RESNET9, images, prepared

GPT = cases.CASES["gpt"]


def _trained(backend: str, precision: str, remat: Any) -> dict[str, np.ndarray]:
    accelerator = cases.accelerator_for(backend, GPT, cases.ONE, precision)
    state = cases.state_for(accelerator, GPT, "adamw")
    batch = next(iter(accelerator.loader(cases.data_of(GPT), batch_size=cases.BATCH)))
    step = accelerator.train_step(cases.loss_fn, accumulate_steps=2, grad_norm=True, remat=remat)
    metrics = [step(state, batch) for _ in range(3)]
    losses = {name: np.array([each[name] for each in metrics]) for name in ("loss", "grad_norm")}
    return losses | cases.arrays_of(state)


@pytest.mark.parametrize("precision", ["fp64", "bf16"])
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_result_is_the_same(backend: str, precision: str) -> None:
    """With dropout and micro-batches; in bfloat16, whose weights are cast for each pass, within its rounding."""
    expected = _trained(backend, precision, "none")
    for remat in ("full", "dots"):
        found = _trained(backend, precision, remat)
        if precision == "fp64":
            assert cases.worst(found, expected)[0] <= 1e-12
        else:
            np.testing.assert_allclose(found["loss"], expected["loss"], rtol=2e-2)
            np.testing.assert_allclose(found["grad_norm"], expected["grad_norm"], rtol=5e-2)


def test_torch_runs_blocks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from crosstrain_torch.models.gpt import FeedForward

    calls: list[int] = []
    forward = FeedForward.forward

    def counted(self: Any, x: Any) -> Any:
        calls.append(1)
        return forward(self, x)

    monkeypatch.setattr(FeedForward, "forward", counted)
    counts = []
    for remat in ("none", "full", "dots"):
        calls.clear()
        _trained("torch", "fp64", remat)
        counts.append(len(calls))
    assert counts == [12, 24, 24]


def test_jax_keeps_less_for_the_backward_pass() -> None:
    """Bytes that go from the forward to the backward pass, by JAX's own count; XLA's schedule on CPUs hides them."""
    import jax
    import jax.numpy as jnp

    from crosstrain_jax.objective import Program

    config = ct.models.GPTConfig(vocab_size=16, dim=32, n_layers=6, n_heads=2, max_seq_len=64)
    accelerator: Any = ct.Accelerator("jax")
    tokens = np.zeros((16, 64), np.int32)
    batch = accelerator.to_device({"tokens": tokens, "label": tokens})
    state: Any = accelerator.prepare(ct.models.build("gpt", config, accelerator), ct.sgd(1e-2))
    sizes = {}
    for remat in ("none", "dots", "full"):
        program = Program(accelerator._runtime, cases.loss_fn, (state.layout,), remat)

        def loss(params: Any, program: Program = program) -> Any:
            random = accelerator._runtime.step_random(state.count, jnp.arange(16, dtype=jnp.uint32))
            result, _ = program.forward(params, state.buffers, batch, random, ())
            return program.sums(result, batch)[0].sum

        kept = jax.eval_shape(lambda params, loss=loss: jax.vjp(loss, params)[1], state.params)
        sizes[remat] = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))
    assert sizes["full"] < sizes["dots"] < sizes["none"], sizes
    assert sizes["full"] < 0.2 * sizes["none"], sizes


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_models_without_blocks_are_told_so(backend: str) -> None:
    accelerator = ct.Accelerator(backend)
    with pytest.raises(ConfigError, match="remat must be one of none, full, dots, got remat='all'"):
        accelerator.train_step(cases.loss_fn, remat="all")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="remat must be one of"):
        accelerator.value_and_grad(cases.loss_fn, remat="all")  # type: ignore[arg-type]
    resnet = ct.models.build("resnet9", cases.CASES["resnet9"].config, accelerator)
    state = accelerator.prepare(resnet, ct.sgd(1e-2))
    batch = next(iter(accelerator.loader(cases.data_of(cases.CASES["resnet9"]), batch_size=16)))
    with pytest.raises(ConfigError, match=r"remat must find blocks, got remat='full' for a ResNet9"):
        accelerator.train_step(cases.loss_fn, remat="full")(state, batch)


def _fitted(backend: str, remat: Any) -> list[float]:
    config = ct.RunConfig(backend=backend, precision="fp64", batch_size=8, num_train_epochs=1, remat=remat)
    accelerator = config.accelerator()
    trainer = config.trainer(accelerator, prepared(accelerator, MLP), cases.loss_fn, progress=False)
    return [each.values["loss"] for each in trainer.fit(accelerator.loader(images(16), batch_size=8), steps=2).train]


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_trainer_takes_it_from_the_settings_of_a_run(backend: str) -> None:
    np.testing.assert_allclose(_fitted(backend, "full"), _fitted(backend, "none"), rtol=1e-12)
    accelerator = ct.Accelerator(backend)
    trainer = ct.Trainer(accelerator, prepared(accelerator, RESNET9), cases.loss_fn, remat="dots", progress=False)
    with pytest.raises(ConfigError, match=r"remat must find blocks, got remat='dots' for a ResNet9"):
        trainer.fit(accelerator.loader(images(16), batch_size=8), steps=1)


def test_settings_name_a_way_that_there_is() -> None:
    with pytest.raises(ConfigError, match="remat must be one of none, full, dots, got remat='all'"):
        ct.RunConfig(remat="all")  # type: ignore[arg-type]
