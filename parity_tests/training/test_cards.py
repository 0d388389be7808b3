"""The model cards of one run on both engines differ in the lines about the engine, and in times."""

from pathlib import Path

import crosstrain as ct
from parity_tests import cards
from parity_tests.conformance.tasks import MLP, images, loss_fn, prepared


def written(backend: str, folder: Path) -> cards.Card:
    accelerator = ct.Accelerator(backend, precision="fp64", mesh=ct.MeshSpec(data=1))
    state = prepared(accelerator, MLP, ct.adamw(ct.cosine(0.01, 12), weight_decay=0.1), average=ct.ema(0.9))
    spec = ct.CardSpec(name="digits", license="mit", datasets=("digits",), task="image-classification")
    card = ct.callbacks.ModelCard(folder / backend, spec)
    trainer = ct.Trainer(
        accelerator, state, loss_fn, grad_norm=True, log_every=1, callbacks=[card], progress=False, accumulate_steps=2
    )
    train, test = (accelerator.loader(images(24, seed), batch_size=4, shuffle=not seed) for seed in (0, 1))
    trainer.fit(train, epochs=2, eval_loader=test, checkpoints=ct.CheckpointSpec(root=folder / "run"))
    return cards.read((folder / backend / "README.md").read_text())


def test_both_engines_write_the_same_card(tmp_path: Path) -> None:
    jax, torch = (written(backend, tmp_path / "same") for backend in ("jax", "torch"))
    assert jax.metadata == torch.metadata
    assert jax.tables.keys() == torch.tables.keys()
    assert jax.settings("Model") == torch.settings("Model")
    assert jax.settings("Training") == torch.settings("Training")
    own = {"engine", "jax", "flax", "optax", "torch", "devices", "threads", "time of training"}
    machines = [card.settings("Engine, machine and time") for card in (jax, torch)]
    first, second = ({name: value for name, value in each.items() if name not in own} for each in machines)
    assert first == second
    times = jax.tables["Epochs"][0].index("examples per second")
    assert times == len(jax.tables["Epochs"][0]) - 2
    assert [row[:times] for row in jax.tables["Epochs"]] == [row[:times] for row in torch.tables["Epochs"]]
    assert len(jax.tables["Epochs"]) == 3
    assert [code.replace('"jax"', '"torch"') for code in jax.code["Loading"]] == torch.code["Loading"]
    # And all prose between the tables.
    prose = [
        [line for line in card.text.splitlines() if not line.startswith(("|", "accelerator"))] for card in (jax, torch)
    ]
    assert prose[0] == prose[1]
