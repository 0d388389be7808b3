"""`Precision(reduce_dtype="bf16")`: gradients are the sum of what every device has, each in bfloat16."""

from pathlib import Path

import numpy as np
import pytest

import crosstrain as ct
from parity_tests import layouts
from parity_tests.meshes import launching, narrow

UNIT = 2.0**-8
"""Largest relative error of rounding to bfloat16."""


def _run(backend: str, devices: int, folder: Path) -> dict[str, np.ndarray]:
    launching.start("narrow", [backend, str(folder), str(devices)], devices if backend == "torch" else 1)
    return layouts.read(folder, 0)


def _to_bfloat16(values: np.ndarray) -> np.ndarray:
    """To the nearest, ties to even; float64 in and out."""
    bits = values.astype(np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32).astype(np.float64)


def _sums_of_parts(backend: str, devices: int) -> tuple[list[dict[str, np.ndarray]], float]:
    """Each device's sum of gradients, and the weight of the whole batch, from one device in float64."""
    made = ct.Accelerator(backend, precision="fp64", mesh=ct.MeshSpec(), platform="cpu")
    batch = {name: values[: narrow.ROWS] for name, values in layouts.data_of("gpt").items()}
    size = narrow.ROWS // devices
    found = []
    for index in range(devices):
        # The others do not count: masks of dropout belong to the positions in the batch.
        label = np.full_like(batch["label"], -100)
        own = slice(index * size, (index + 1) * size)
        label[own] = batch["label"][own]
        weight = float((label >= 0).sum())
        found.append({key: each * weight for key, each in narrow.gradients(made, batch | {"label": label}).items()})
    return found, float((batch["label"] >= 0).sum())


@pytest.mark.parametrize(
    ("backend", "devices"),
    [("torch", 2), *(pytest.param(*each, marks=pytest.mark.slow) for each in (("jax", 2), ("jax", 4), ("torch", 4)))],
)
def test_gradients_are_added_in_bfloat16_and_losses_stay_near(backend: str, devices: int, tmp_path: Path) -> None:
    results = _run(backend, devices, tmp_path)
    parts, weight = _sums_of_parts(backend, devices)
    for name in [name for name in narrow.LAYOUTS if f"{name}/loss/None" in results]:
        changed = 0.0
        for key in parts[0]:
            exact = sum(part[key] for part in parts) / weight
            expected = sum(_to_bfloat16(part[key]) for part in parts) / weight
            got = results[f"{name}/gradient/{key}"]
            # The sums on the way are rounded too, once for each device.
            room = devices * UNIT * sum(np.abs(part[key]) for part in parts) / weight
            assert (np.abs(got - expected) <= room + 1e-12).all(), (name, key)
            changed = max(changed, float(np.abs(got - exact).max() / np.abs(exact).max()))
        assert 1e-5 < changed < devices * UNIT
        plain, reduced = results[f"{name}/loss/None"], results[f"{name}/loss/bf16"]
        assert not np.array_equal(plain, reduced)
        assert (np.abs(plain - reduced) <= UNIT * np.abs(plain)).all()
