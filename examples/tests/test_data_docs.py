"""Every Python block of docs/data.md runs, in order, on both engines, over small files of the formats it names."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DOCS = Path(__file__).parents[2] / "docs" / "data.md"


def write_files(root):
    rng = np.random.default_rng(0)
    (root / "cifar-10-batches-bin").mkdir()
    for name in ("test_batch", *(f"data_batch_{number}" for number in range(1, 6))):
        records = rng.integers(0, 256, (8, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        records.tofile(root / "cifar-10-batches-bin" / f"{name}.bin")
    for name in ("cat", "dog"):
        (root / "photos" / name).mkdir(parents=True)
        for index in range(3):
            pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "photos" / name / f"{index}.jpg")


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_blocks_of_the_data_docs_run(backend, tmp_path, monkeypatch, capsys):
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    names = {}
    for block in blocks:
        exec(block.replace('Accelerator("torch")', f'Accelerator("{backend}")'), names)
        batch = next(iter(names["loader"]))
        assert all(np.isfinite(np.asarray(batch[name])).all() for name in batch if name != "log_target")
    assert len(list(names["again"])) == len(names["again"])
    printed = capsys.readouterr().out
    assert "[[1 1 1 2]]" in printed
    assert "['cat', 'dog']" in printed
    check_mixed_loss(names, backend)


def check_mixed_loss(names, backend):
    """The one-line loss is the papers' cross-entropy less the entropy of the target."""
    ct, accelerator = names["ct"], names["accelerator"]
    loader = accelerator.loader(
        names["split"].train,
        batch_size=4,
        transform=ct.data.compose(ct.data.normalise(0.5, 0.25), ct.data.mixup(1.0, classes=10)),
    )
    batch = next(iter(loader))
    target = np.exp(np.asarray(batch["log_target"], dtype=np.float64))
    logits = np.random.default_rng(1).normal(size=target.shape).astype(np.float32)
    log_q = logits - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
    expected = -(target * log_q).sum(1) + (target * np.log(np.where(target > 0, target, 1))).sum(1)

    def loss_fn(model, batch, ops):
        return ops.kl_div(batch["log_target"], model(batch["image"]))

    state = accelerator.prepare(CONSTANT[backend](logits), ct.sgd(0.1))
    metrics, gradients = accelerator.value_and_grad(loss_fn)(state, batch)
    assert metrics["loss"] == pytest.approx(expected.mean(), rel=1e-5)
    (gradient,) = gradients.to_host().values()
    np.testing.assert_allclose(gradient, (np.exp(log_q) - target) / 4, atol=1e-6)


def constant_of_jax(logits):
    import jax.numpy as jnp
    from flax import nnx

    class Constant(nnx.Module):
        def __init__(self):
            self.logits = nnx.Param(jnp.asarray(logits))

        def __call__(self, image):
            return self.logits[...]

    return Constant()


def constant_of_torch(logits):
    import torch

    class Constant(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = torch.nn.Parameter(torch.from_numpy(logits))

        def forward(self, image):
            return self.logits

    return Constant()


CONSTANT = {"jax": constant_of_jax, "torch": constant_of_torch}
