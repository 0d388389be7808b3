"""Specs as JSON and back: every one of them, and none that was tampered with."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

import crosstrain as ct
from crosstrain import models, optim, schedules
from crosstrain.checkpoint.specs import KNOWN, describe, rebuild

SCHEDULES = [
    ct.constant(0.1),
    ct.linear(0.1, 10, warmup_steps=2),
    ct.cosine(1 / 3, 10, final=1e-3),
    ct.polynomial(0.1, 10, power=2.0),
    ct.warmup_stable_decay(0.1, 10, warmup_steps=2, decay_steps=3, shape="1-sqrt"),
    ct.step_decay(0.1, 3),
    ct.multi_step_decay(0.1, [3, 5]),
    ct.one_cycle(0.1, 10),
    ct.one_cycle_momentum(10),
    ct.optax_one_cycle(0.1, 10),
    ct.smith_one_cycle(0.1, 10),
    ct.smith_one_cycle_momentum(10),
    schedules.Override(base=ct.constant(0.1), part=ct.cosine(0.1, 5), start=2, end=7),
    ct.torch_one_cycle(0.1, 10),
    ct.torch_one_cycle_momentum(10),
    ct.triangular(0.1, 0.2, 3),
    ct.lr_range(1e-4, 1.0, 10),
]
LAYERS = (ct.LayerGroup(match="head", rate_scale=0.5, frozen=((0, 3), (5, None))),)
GROUPS = (ct.undecayed(), ct.ParamGroup(match="head", rate_scale=0.5))
SPECS = [
    *(ct.sgd(each) for each in SCHEDULES),
    ct.sgd(ct.one_cycle(0.1, 10), momentum=ct.one_cycle_momentum(10), nesterov=True),
    ct.adam(0.1, betas=(ct.triangular(0.95, 0.85, 3), 0.99)),
    ct.adamw(0.1, groups=GROUPS),
    dataclasses.replace(ct.adam(0.1), layers=LAYERS),
    ct.adafactor(0.1),
    ct.adagrad(0.1),
    ct.lamb(0.1),
    ct.lion(0.1),
    ct.muon(0.1, groups=GROUPS),
    ct.nadam(0.1),
    ct.radam(0.1),
    ct.rmsprop(0.1),
    ct.ema(0.999),
    ct.swa(3, every=2),
    ct.lookahead(every=3, share=0.25),
    ct.models.MLPConfig(hidden=(3, 4), activation="gelu"),
    ct.models.ResNet9Config(width=2),
    ct.models.ResNet9Config(width=2, image_size=None, whitening=3),
    ct.models.GPTConfig(n_kv_heads=2, tie_embeddings=True),
    ct.models.GPTConfig(experts=ct.Experts(number=4, capacity=1.25)),
]


def through_json(spec: Any) -> Any:
    return json.loads(json.dumps(describe(spec), allow_nan=False))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_a_spec_comes_back_equal(spec: Any) -> None:
    assert rebuild("spec", through_json(spec), type(spec)) == spec


def test_every_spec_is_known_and_tried() -> None:
    bases = (optim.OptimizerSpec, optim.Averaging, schedules.Schedule, models.ModelConfig)
    rooms = (optim, schedules, models)
    public = [value for room in rooms for value in vars(room).values() if isinstance(value, type)]
    specs = {each for each in public if issubclass(each, bases)} - set(bases)
    assert specs | {optim.ParamGroup, optim.LayerGroup, models.Experts} == set(KNOWN.values())
    assert specs <= {type(spec) for spec in (*SPECS, *SCHEDULES)}


def test_numbers_of_numpy_are_numbers() -> None:
    spec = ct.adamw(ct.cosine(np.float64(0.1), np.int64(10)), weight_decay=np.float32(0.5))
    assert rebuild("optimizer", through_json(spec), ct.OptimizerSpec) == spec


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Own(schedules.Schedule):
    """A schedule that only this file has."""


def changed(**fields: Any) -> dict[str, Any]:
    return {**through_json(ct.adamw(0.1)), **fields}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (through_json(ct.adamw(Own())), "no spec is called 'Own'"),
        (changed(type="os.system"), "no spec is called 'os.system'"),
        (changed(type=["AdamW"]), "no spec is called"),
        (changed(type="Ema"), "Ema has no"),
        (changed(surprise=1), "AdamW has no field surprise"),
        (changed(eps="1e-8"), "AdamW has no eps='1e-8'"),
        (changed(eps=True), "AdamW has no eps=True"),
        (changed(eps=-1.0), "eps must be at least 0.0, got eps=-1.0"),
        (changed(betas=[0.9]), "AdamW has no betas="),
        (changed(betas=0.9), "AdamW has no betas=0.9"),
        (changed(learning_rate=0.1), "AdamW has no learning_rate=0.1"),
        (changed(learning_rate=through_json(ct.ema(0.9))), "AdamW has no learning_rate=Ema"),
        (changed(groups=[{"type": "ParamGroup", "match": "("}]), "match must be a regular expression"),
        (changed(groups=[{"type": "ParamGroup", "roles": ["head"]}]), "ParamGroup has no roles="),
        ({"type": "AdamW"}, "missing 1 required keyword-only argument: 'learning_rate'"),
        (through_json(ct.ema(0.9)), "it is no OptimizerSpec"),
        ([], "it is no OptimizerSpec"),
        ("AdamW", "it is no OptimizerSpec"),
    ],
)
def test_what_is_no_such_spec_is_refused(values: Any, message: str) -> None:
    with pytest.raises(ct.CheckpointError, match="optimizer must be a spec that") as caught:
        rebuild("optimizer", values, ct.OptimizerSpec)
    assert message in str(caught.value)
    assert "accelerator.restore(path, state)" in str(caught.value)


def test_nesting_without_end_is_refused() -> None:
    values: Any = 0.1
    for _ in range(100_000):
        values = [values]
    with pytest.raises(ct.CheckpointError, match="optimizer must be a spec that"):
        rebuild("optimizer", changed(betas=values), ct.OptimizerSpec)
