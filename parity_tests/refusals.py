"""Input that only several devices or processes make wrong, and what an accelerator over them has to say to it.

`collect` runs in the processes of a layout, `check` in the test that reads what they left. Imports neither framework.
"""

import numpy as np

import crosstrain as ct

from . import layouts


def collect(backend: str) -> dict[str, np.ndarray]:
    """`refused/` + name of each attempt -> the error that it ended in."""
    accelerator = ct.Accelerator(backend)
    devices = accelerator.device_count
    data = layouts.data_of("mlp")
    uneven, local = ({name: values[:count] for name, values in data.items()} for count in (devices + 1, 8))
    model = ct.models.build("mlp", layouts.CASES["mlp"][0], accelerator)
    state, split = accelerator.prepare(model, ct.sgd(0.1)), accelerator.train_step(layouts.loss_fn, accumulate_steps=3)

    def prepare(mesh: ct.MeshSpec) -> ct.TrainState:
        return ct.Accelerator(backend, mesh=mesh).prepare(model, ct.sgd(0.1))

    attempts = {
        "mesh axis": lambda: prepare(ct.MeshSpec(expert=devices)),
        "mesh size": lambda: ct.Accelerator(backend, mesh=ct.MeshSpec(data=devices + 1)),
        "batch size": lambda: accelerator.loader(uneven, batch_size=devices + 1, even_batches=False),
        "last batch": lambda: accelerator.loader(uneven, batch_size=devices, even_batches=False),
        "micro-batches": lambda: split(state, local),
    }
    refused = {}
    for name, attempt in attempts.items():
        refused[f"refused/{name}"] = np.array("nothing was refused")
        try:
            attempt()
        except ct.CrosstrainError as error:
            refused[f"refused/{name}"] = np.array(f"{type(error).__name__}: {error}")
    return refused


def check(results: dict[str, np.ndarray], devices: int) -> None:
    """Every attempt on `devices` devices ended in the error that says what was given and what to do."""
    expected = {
        "mesh axis": f"ConfigError: expert={devices} must split some parameter, but no parameter has",
        "mesh size": "ConfigError: the mesh axes must multiply to the device count, "
        f"got data={devices + 1} ({devices + 1} devices) on {devices}. Set one axis to -1",
        "batch size": f"DataError: batch_size must be a multiple of the data axis, got {devices + 1} examples "
        f"on {devices} devices. Use {devices} or {2 * devices}, or let the loader pad with even_batches=True.",
        "last batch": f"DataError: the last batch must be a multiple of the data axis, got 1 examples "
        f"on {devices} devices. Use {devices}, or let the loader pad",
        "micro-batches": "DataError: the batch must be a multiple of accumulate_steps on every",
    }
    for name, message in expected.items():
        assert str(results[f"refused/{name}"]).startswith(message), results[f"refused/{name}"]
