"""What every mesh trains, on both engines: models, layouts, optimizers and one run. Imports neither framework."""

import dataclasses
import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import crosstrain as ct
from crosstrain import random
from crosstrain.mesh import AXES

BOUND = 1e-10
"""Relative, over a whole run in float64."""

STEPS = 50
BATCH = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Sizes of the mesh axes, in devices."""

    name: str
    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    context: int = 1
    expert: int = 1
    pipeline: int = 1

    @property
    def sizes(self) -> dict[str, int]:
        return {axis: getattr(self, axis) for axis in AXES}

    @property
    def mesh(self) -> ct.MeshSpec:
        return ct.MeshSpec(**self.sizes)

    @property
    def devices(self) -> int:
        return math.prod(self.sizes.values())


ONE = Layout(name="one")
LAYOUTS = {
    layout.name: layout
    for layout in (
        ONE,
        Layout(name="fsdp2", fsdp=2),
        Layout(name="tensor2", tensor=2),
        Layout(name="data2-fsdp2", data=2, fsdp=2),
        Layout(name="data2-tensor2", data=2, tensor=2),
        Layout(name="fsdp2-tensor2", fsdp=2, tensor=2),
        Layout(name="data2-fsdp2-tensor2", data=2, fsdp=2, tensor=2),
        Layout(name="context2", context=2),
        Layout(name="data2-context2", data=2, context=2),
        Layout(name="fsdp2-context2", fsdp=2, context=2),
        Layout(name="tensor2-context2", tensor=2, context=2),
        Layout(name="pipeline2", pipeline=2),
        Layout(name="data2-pipeline2", data=2, pipeline=2),
        Layout(name="fsdp2-pipeline2", fsdp=2, pipeline=2),
        Layout(name="tensor2-pipeline2", tensor=2, pipeline=2),
        Layout(name="pipeline4", pipeline=4),
        Layout(name="data2", data=2),
        Layout(name="expert2", expert=2),
        Layout(name="data2-expert2", data=2, expert=2),
        Layout(name="fsdp2-expert2", fsdp=2, expert=2),
        Layout(name="expert2-context2", expert=2, context=2),
        Layout(name="tensor2-expert2", tensor=2, expert=2),
        Layout(name="expert4", expert=4),
        Layout(name="data2-fsdp2-expert2", data=2, fsdp=2, expert=2),
    )
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One model and how it is trained.

    Attributes:
        config: of a paired model; None for the user's own, which `own_ENGINE.py` makes.
        rules: how its parameters are split.
        options: of the training step.
        tensor: whether it can be split over `tensor`.
        context: whether its examples are sequences, which can be split over `context`.
        expert: whether it has experts: it goes over `expert`, and not over `pipeline`.
    """

    name: str
    config: Any = None
    rules: ct.ShardingRules = field(default_factory=ct.ShardingRules)
    options: Mapping[str, Any] = field(default_factory=dict)
    tensor: bool = True
    context: bool = False
    expert: bool = False


OWN_RULES = ct.ShardingRules(
    logical_axes={
        "embed.weight": ("vocab", "embed"),
        "*.up.weight": ("mlp", "embed"),
        "*.up.bias": ("mlp",),
        "*.down.weight": ("embed", "mlp"),
        "head.weight": ("vocab", "embed"),
        "head.bias": ("vocab",),
    }
)
_GPT: dict[str, Any] = {"dim": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "mlp_dim": 24, "max_seq_len": 8}
CASES = {
    case.name: case
    for case in (
        Case(name="mlp", config=ct.models.MLPConfig(hidden=(16, 12), dropout=0.5), options={"clip_norm": 0.5}),
        Case(
            name="resnet9",
            config=ct.models.ResNet9Config(width=2, image_size=8, in_channels=1, num_classes=10),
            tensor=False,
        ),
        Case(
            name="gpt",
            config=ct.models.GPTConfig(vocab_size=32, dropout=0.1, tie_embeddings=True, **_GPT),
            options={"accumulate_steps": 2, "clip_norm": 0.5},
            context=True,
        ),
        Case(
            name="gpt-untied",
            config=ct.models.GPTConfig(vocab_size=32, dropout=0.1, **_GPT),
            options={"clip_value": 0.01, "grad_norm": True},
            context=True,
        ),
        Case(
            name="gpt-packed",
            config=ct.models.GPTConfig(vocab_size=32, dropout=0.1, tie_embeddings=True, **(_GPT | {"n_layers": 1})),
            options={"grad_norm": True},
            context=True,
        ),
        Case(
            name="gpt-deep",
            config=ct.models.GPTConfig(vocab_size=32, dropout=0.1, scan_layers=True, **(_GPT | {"n_layers": 4})),
            options={"accumulate_steps": 4, "grad_norm": True, "remat": "full"},
        ),
        Case(
            name="gpt-experts",
            config=ct.models.GPTConfig(
                vocab_size=32, dropout=0.1, experts=ct.Experts(number=4, balance=0.1), **(_GPT | {"mlp_dim": 8})
            ),
            options={"accumulate_steps": 2, "clip_norm": 0.5},
            context=True,
            expert=True,
        ),
        Case(
            name="gpt-capacity",
            config=ct.models.GPTConfig(
                vocab_size=32,
                experts=ct.Experts(number=4, active=1, capacity=1.0),
                **(_GPT | {"mlp_dim": 8, "n_layers": 1}),
            ),
            options={"grad_norm": True, "remat": "full"},
            expert=True,
        ),
        Case(name="own", rules=OWN_RULES, options={"grad_norm": True}),
    )
}

FROZEN = "adamw-frozen"
_STANDING_STILL = (
    ct.LayerGroup(match=r"\.0\.|^prep", frozen=((2, 4),), rate_scale=0.5),
    ct.LayerGroup(roles=("embedding", "norm"), frozen=((1, 3),)),
)
OPTIMIZERS: dict[str, Callable[[], ct.OptimizerSpec]] = {
    "adamw": lambda: ct.adamw(ct.one_cycle(1e-2, STEPS), weight_decay=1e-2),
    "sgd": lambda: ct.sgd(ct.one_cycle(5e-2, STEPS), momentum=0.9, nesterov=True, weight_decay=1e-3),
    "muon": lambda: ct.muon(ct.one_cycle(1e-2, STEPS), weight_decay=1e-2),
    "adam": lambda: ct.adam(1e-2, weight_decay=1e-3),
    "nadam": lambda: ct.nadam(1e-2),
    "radam": lambda: ct.radam(1e-2),
    "rmsprop": lambda: ct.rmsprop(1e-3, momentum=0.9),
    "adagrad": lambda: ct.adagrad(1e-2),
    "lion": lambda: ct.lion(1e-3, weight_decay=1e-2),
    "lamb": lambda: ct.lamb(1e-2, weight_decay=1e-2),
    "adafactor": lambda: ct.adafactor(1e-2, weight_decay=1e-2),
    FROZEN: lambda: dataclasses.replace(OPTIMIZERS["adamw"](), layers=_STANDING_STILL),
}
TRAINED = ("adamw", "sgd", "muon")
"""Compared over whole runs; the others over 3 steps."""


PIPELINES = ("jax", "torch")
"""The engines that have a `pipeline` axis."""


def runs(layout: Layout, case: Case, backend: str) -> bool:
    """Whether an engine can split this model so."""
    blocks = case.config.blocks() if case.config is not None else None
    staged = backend in PIPELINES and blocks is not None and blocks.count % layout.pipeline == 0 and not case.expert
    apart = case.expert and backend == "torch"  # torch splits experts over `expert` and `fsdp` only
    return (
        (layout.tensor == 1 or (case.tensor and not apart))
        and (layout.context == 1 or case.context)
        and (layout.pipeline == 1 or staged)
        and (layout.expert == 1 or case.expert)
        # Others are compared on `data` alone in the engines' own tests.
        and (layout.data < layout.devices or layout is ONE or case.expert)
    )


def data_of(case: Case) -> dict[str, np.ndarray]:
    """75 examples: of five batches of 16 the last holds 11, so that some devices see padding."""
    if case.name in ("mlp", "resnet9"):
        return {name: values[:75] for name, values in ct.data.digits().train.items()}
    drawn = np.random.default_rng(0).integers(0, 32, (75, 9)).astype(np.int32)
    labels = np.where(np.arange(8) >= 2 + np.arange(75)[:, None] % 7, -100, drawn[:, 1:]).astype(np.int32)
    data = {"tokens": drawn[:, :-1], "label": labels}
    if case.name in ("gpt-packed", "gpt-deep"):
        data["segments"] = np.sort(np.random.default_rng(1).integers(0, 3, (75, 8)).astype(np.int32), axis=1)
    return data


def loss_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
    logits = logits_fn(model, batch, ops)
    return ops.cross_entropy(logits, batch["label"]), {"accuracy": ops.accuracy(logits, batch["label"])}


def logits_fn(model: Any, batch: Any, ops: ct.Ops) -> Any:
    if "segments" in batch:
        return model(batch["tokens"], segments=batch["segments"])
    return model(batch["tokens"] if "tokens" in batch else batch["image"])


def accelerator_for(backend: str, case: Case, layout: Layout, precision: str = "fp64") -> ct.Accelerator:
    return ct.Accelerator(backend, precision=precision, mesh=layout.mesh, sharding=case.rules)


def state_for(accelerator: ct.Accelerator, case: Case, optimizer: str, **options: Any) -> ct.TrainState:
    """A prepared state; the user's own model gets the same weights on both engines."""
    if case.config is not None:
        model = ct.models.build(case.config.kind, case.config, accelerator)
        return accelerator.prepare(model, OPTIMIZERS[optimizer](), **options)
    own = importlib.import_module(f"{__package__}.own_{accelerator.backend}")
    state = accelerator.prepare(own.make(), OPTIMIZERS[optimizer](), **options)
    params = {name: 0.3 * random.normal(1, name, shape) for name, shape in state.parameter_shapes.items()}
    state.load(dataclasses.replace(state.snapshot(), params=params))
    return state


def train(
    accelerator: ct.Accelerator, state: ct.TrainState, case: Case, steps: int, loader: Any = None
) -> dict[str, np.ndarray]:
    """Loss, gradient norm and accuracy of every step."""
    loader = loader or accelerator.loader(data_of(case), batch_size=BATCH, shuffle=True)
    step = accelerator.train_step(loss_fn, **case.options)
    metrics = []
    while len(metrics) < steps:
        for batch in loader:
            metrics.append(step(state, batch))
            if len(metrics) == steps:
                break
    balance = ("expert_balance",) if case.expert else ()
    names = (
        "loss",
        "accuracy",
        *balance,
        *(("grad_norm",) if case.options.keys() & {"clip_norm", "grad_norm"} else ()),
    )
    return {name: np.array([each[name] for each in metrics]) for name in names}


def arrays_of(state: ct.TrainState) -> dict[str, np.ndarray]:
    """Everything a state holds, whole, on the host."""
    snapshot = state.snapshot()
    tables = {"param": snapshot.params, "buffer": snapshot.buffers, "average": snapshot.averages, **snapshot.moments}
    return {f"{kind}/{name}": values for kind, table in tables.items() for name, values in table.items()}


def run(accelerator: ct.Accelerator, case: Case, optimizer: str, steps: int = STEPS) -> dict[str, np.ndarray]:
    """A whole run: metrics of every step, everything the state holds at its end, evaluation and predictions."""
    state = state_for(accelerator, case, optimizer, average=ct.ema(0.9))
    results = train(accelerator, state, case, steps)
    plain = accelerator.loader(data_of(case), batch_size=32)
    for averaged in (False, True):
        evaluate = accelerator.eval_step(loss_fn, averaged=averaged)
        results[f"evaluation, averaged={averaged}"] = np.array([evaluate(state, batch)["loss"] for batch in plain])
    predict = accelerator.predict_step(logits_fn)
    results["prediction"] = np.concatenate([predict(state, batch)["prediction"] for batch in plain])
    return results | arrays_of(state)


def worst(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> tuple[float, str]:
    """Largest difference, relative to the array's largest element, and where; infinite for other names or shapes."""
    if found.keys() != expected.keys():
        return math.inf, f"names: {sorted(found.keys() ^ expected.keys())[:3]}"
    differences = {name: _difference(found[name], expected[name]) for name in expected}
    name = max(differences, key=lambda each: differences[each])
    return differences[name], name


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        return math.inf
    if not expected.size:
        return 0.0
    difference = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))
    return math.inf if math.isnan(difference) else difference
