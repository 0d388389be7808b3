"""`scan_layers`: blocks that are compiled once, with the names and the numbers of those that follow each other."""

import dataclasses
from typing import Any

import numpy as np
import pytest

import crosstrain as ct
from parity_tests.meshes import cases

DEEP = cases.CASES["gpt-deep"]


def _case(scan: bool, **options: Any) -> cases.Case:
    assert DEEP.config is not None
    return dataclasses.replace(
        DEEP, config=dataclasses.replace(DEEP.config, scan_layers=scan), options={"grad_norm": True, **options}
    )


def _trained(backend: str, scan: bool, steps: int, *, whole: bool = False, **options: Any) -> dict[str, np.ndarray]:
    case = _case(scan, **options)
    accelerator = cases.accelerator_for(backend, case, cases.ONE)
    if whole:
        return cases.run(accelerator, case, "adamw", steps)
    state = cases.state_for(accelerator, case, "adamw")
    return cases.train(accelerator, state, case, steps) | cases.arrays_of(state)


@pytest.mark.parametrize("backend", [pytest.param("jax", marks=pytest.mark.slow), "torch"])
def test_the_numbers_are_the_same(backend: str) -> None:
    """With dropout, whose masks belong to layers by name, and segments."""
    expected, found = (_trained(backend, scan, 3, accumulate_steps=2) for scan in (False, True))
    assert cases.worst(found, expected)[0] <= 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["full", "dots"])
def test_a_whole_run_with_remat(remat: str) -> None:
    expected = _trained("jax", False, cases.STEPS, whole=True)
    assert cases.worst(_trained("jax", True, cases.STEPS, whole=True, remat=remat), expected)[0] <= cases.BOUND


def test_jax_traces_one_block() -> None:
    """Products of the traced step: as many for eight blocks as for two."""
    sizes = {}
    for scan in (False, True):
        for layers in (2, 8):
            config = dataclasses.replace(_case(scan).config, n_layers=layers)
            accelerator: Any = ct.Accelerator("jax")
            state = accelerator.prepare(ct.models.build("gpt", config, accelerator), ct.sgd(1e-2))
            batch = accelerator.to_device({name: each[:4] for name, each in cases.data_of(DEEP).items()})
            traced = accelerator.train_step(cases.loss_fn)._run.trace(state, batch)
            sizes[scan, layers] = str(traced.jaxpr).count("dot_general")
    assert sizes[True, 2] == sizes[True, 8]
    assert sizes[False, 8] > 3 * sizes[False, 2]


def test_jax_computes_scanned_blocks_again() -> None:
    """Bytes from the forward to the backward pass."""
    import jax
    import jax.numpy as jnp

    from crosstrain_jax.objective import Program

    config = ct.models.GPTConfig(vocab_size=16, dim=32, n_layers=6, n_heads=2, max_seq_len=64, scan_layers=True)
    accelerator: Any = ct.Accelerator("jax")
    tokens = np.zeros((16, 64), np.int32)
    batch = accelerator.to_device({"tokens": tokens, "label": tokens})
    state: Any = accelerator.prepare(ct.models.build("gpt", config, accelerator), ct.sgd(1e-2))
    kept = {}
    for remat in ("none", "full"):
        program = Program(accelerator._runtime, cases.loss_fn, (state.layout,), remat)

        def loss(params: Any, program: Program = program) -> Any:
            random = accelerator._runtime.step_random(state.count, jnp.arange(16, dtype=jnp.uint32))
            result, _ = program.forward(params, state.buffers, batch, random, ())
            return program.sums(result, batch)[0].sum

        saved = jax.eval_shape(lambda params, loss=loss: jax.vjp(loss, params)[1], state.params)
        kept[remat] = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(saved))
    assert kept["full"] < 0.3 * kept["none"], kept


@pytest.mark.slow
def test_the_probe_sees_every_scanned_block() -> None:
    probes = []
    for scan in (False, True):
        case = _case(scan)
        accelerator = cases.accelerator_for("jax", case, cases.ONE)
        state = cases.state_for(accelerator, case, "adamw")
        batch = next(iter(accelerator.loader(cases.data_of(case), batch_size=cases.BATCH)))
        probes.append(accelerator.probe_step(cases.loss_fn)(state, batch))
    assert probes[0].activations.keys() == probes[1].activations.keys()
    assert cases.worst(probes[1].gradients, probes[0].gradients)[0] <= 1e-12
