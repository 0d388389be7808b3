"""What a state does on a mesh besides training: what a device holds, saving, restoring, gradients by hand.

`scenarios.py BACKEND FOLDER DEVICES SAVED SOURCES LAYOUT ...` saves in SAVED/LAYOUT and goes on from SAVED/SOURCE in
each layout; SOURCES are separated by commas. Imports neither framework.
"""

import dataclasses
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

import crosstrain as ct
from crosstrain.checkpoint import Checkpoints
from parity_tests import layouts
from parity_tests.meshes import cases
from parity_tests.meshes.worker import start

CASE = cases.CASES["gpt"]
EXPERTS = cases.CASES["gpt-experts"]
FEW = 4  # steps
BEFORE, AFTER = 2, 3


def prepared(backend: str, layout: cases.Layout, case: cases.Case = CASE, optimizer: str = "adamw") -> Any:
    accelerator = cases.accelerator_for(backend, case, layout)
    return accelerator, cases.state_for(accelerator, case, optimizer, average=ct.ema(0.9))


def cases_of(layout: cases.Layout, backend: str) -> list[cases.Case]:
    """What is saved and restored in a layout; the mixture where the experts are on one device or split."""
    dense = [CASE] if cases.runs(layout, CASE, backend) else []
    apart = layout.expert > 1 or layout is cases.ONE
    split = [EXPERTS] if apart and cases.runs(layout, EXPERTS, backend) else []
    return dense + split


def name_of(scenario: str, case: cases.Case) -> str:
    return scenario if case is CASE else f"experts: {scenario}"


def save(backend: str, layout: cases.Layout, saved: Path, case: cases.Case = CASE) -> dict[str, np.ndarray]:
    """Saves natively and portably after some steps; what follows them without a restart."""
    accelerator, state = prepared(backend, layout, case)
    loader = accelerator.loader(cases.data_of(case), batch_size=cases.BATCH, shuffle=True)
    cases.train(accelerator, state, case, BEFORE, loader)
    checkpoints = Checkpoints(accelerator, saved / layout.name / case.name / "native")
    checkpoints.save(state, loader=loader)
    accelerator.export(state, saved / layout.name / case.name / "portable", loader=loader)
    after = cases.train(accelerator, state, case, AFTER)
    checkpoints.close()
    return after | cases.arrays_of(state)


def go_on(
    backend: str, layout: cases.Layout, folder: Path, kind: str, case: cases.Case = CASE
) -> dict[str, np.ndarray]:
    """The same steps from what was saved in another layout."""
    accelerator, state = prepared(backend, layout, case)
    folder = folder / case.name
    if kind == "native":
        assert Checkpoints(accelerator, folder / kind).restore(state) is not None
    else:
        accelerator.restore(folder / kind, state)
    assert state.step == BEFORE
    return cases.train(accelerator, state, case, AFTER) | cases.arrays_of(state)


def by_hand(backend: str, layout: cases.Layout, case: cases.Case = CASE) -> dict[str, np.ndarray]:
    """`value_and_grad` and `apply_gradients`, gradients to the host and from there."""
    accelerator, state = prepared(backend, layout, case, optimizer="muon")
    gradient = accelerator.value_and_grad(cases.loss_fn)
    results: dict[str, np.ndarray] = {}
    for index, batch in enumerate(accelerator.loader(cases.data_of(case), batch_size=cases.BATCH)):
        _, gradients = gradient(state, batch)
        host = gradients.to_host()
        results |= {f"gradient {index}/{name}": values for name, values in host.items()}
        results[f"norm {index}"] = np.array(gradients.global_norm())
        if index % 2:
            gradients = state.to_gradients(host)
        state.apply_gradients(gradients, clip_norm=0.3)
    return results | cases.arrays_of(state)


def held(backend: str, layout: cases.Layout) -> dict[str, np.ndarray]:
    """Shapes that this process holds beside those of the plan, of parameters, averages and moments of their shape."""
    own = importlib.import_module(f"parity_tests.meshes.own_{backend}")
    results = {}
    for case in cases.CASES.values():
        if cases.runs(layout, case, backend):
            accelerator, state = prepared(backend, layout, case, "muon")
            shapes = own.held(state)
            for section in ("params", "averages", "moments/momentum", "moments/second_moment"):
                for name, param in state.sharding_plan.params.items():
                    if f"{section}/{name}" in shapes:
                        pair = shapes[f"{section}/{name}"], param.local_shape(accelerator.mesh_sizes)
                        results[f"{case.name}/{section}/{name}"] = np.array(pair)
    return results


def estimated(backend: str, layout: cases.Layout) -> dict[str, np.ndarray]:
    """Bytes that this device holds beside those of an estimate."""
    own = importlib.import_module(f"parity_tests.meshes.own_{backend}")
    results = {}
    for case in cases.CASES.values():
        if cases.runs(layout, case, backend):
            for optimizer in ("muon", "adafactor"):
                accelerator, state = prepared(backend, layout, case, optimizer)
                estimate = ct.estimate_memory(
                    case.config or own.make,
                    cases.OPTIMIZERS[optimizer](),
                    backend=backend,
                    precision=accelerator.precision,
                    mesh=layout.mesh,
                    sharding=case.rules,
                    average=ct.ema(0.9),
                )
                for part, size in dataclasses.asdict(state.device_bytes).items():
                    pair = size, getattr(estimate.device, part) * (part != "gradients")
                    results[f"{case.name}/{optimizer}/{part}"] = np.array(pair)
    return results


def trained(backend: str, layout: cases.Layout) -> dict[str, np.ndarray]:
    """The first steps of every model, by the name of the model."""
    results: dict[str, np.ndarray] = {}
    for case in cases.CASES.values():
        if cases.runs(layout, case, backend):
            found = cases.run(cases.accelerator_for(backend, case, layout), case, "adamw", FEW)
            results |= {f"{case.name}/{name}": values for name, values in found.items()}
    return results


def main(backend: str, folder: Path, devices: int, saved: Path, sources: list[str], names: list[str]) -> None:
    start(backend, devices)
    results: dict[str, np.ndarray] = {}
    chosen = [cases.LAYOUTS[name] for name in names]
    pairs = [(layout, case) for layout in chosen for case in cases_of(layout, backend)]
    found = {f"{name_of('save', case)}|{layout.name}": save(backend, layout, saved, case) for layout, case in pairs}
    for layout, case in pairs:
        for source in (each for each in sources if case in cases_of(cases.LAYOUTS[each], backend)):
            for kind in ("native", "portable"):
                scenario = name_of(f"{kind} from {source}", case)
                found[f"{scenario}|{layout.name}"] = go_on(backend, layout, saved / source, kind, case)
        found[f"{name_of('by hand', case)}|{layout.name}"] = by_hand(backend, layout, case)
    for layout in chosen:
        found[f"trained|{layout.name}"] = trained(backend, layout)
        if layout.context == layout.expert == layout.pipeline == 1:
            found[f"adversarial|{layout.name}"] = layouts.train_adversarially(backend, layout.mesh)
        found[f"held|{layout.name}"] = held(backend, layout)
        found[f"estimated|{layout.name}"] = estimated(backend, layout)
    results |= {f"{run}|{name}": values for run, each in found.items() for name, values in each.items()}
    layouts.leave(folder, ct.Accelerator(backend).process_index, results)


if __name__ == "__main__":
    backend, folder, devices, saved, sources, *names = sys.argv[1:]
    main(backend, Path(folder), int(devices), Path(saved), [each for each in sources.split(",") if each], names)
