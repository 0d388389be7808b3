"""Plans on torch: a model and a step on tensors without memory, and the exchanges by formula; nothing is compiled."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from crosstrain.backends import raise_wrong_model
from crosstrain.errors import ConfigError
from crosstrain.models import GPTConfig
from crosstrain.models.spec import ModelConfig
from crosstrain.optim import Role
from crosstrain.planning import Held, Job, Measured, Memory, Setup, StateBytes, Topology
from crosstrain.planning.formulas import expected
from crosstrain.sharding import BATCH_AXES, EXPERT_AXIS, PIPELINE_AXIS, ShardingPlan, plan_model
from crosstrain_torch import models, naming
from crosstrain_torch.objective import Objective
from crosstrain_torch.optim.rules import RULES
from crosstrain_torch.precision import DTYPES, compute_batch, compute_params, forward_scope, param_dtype
from crosstrain_torch.reduction import reduce_dtype

_NOTES = (
    "exchanges are those of the formulas, not of a program",
    "activations are what autograd keeps of one micro-batch; those that tensor parallelism splits count whole",
    "embedding and head count as parts of the blocks where a pipeline divides activations and FLOPs",
    "what kernels take for themselves, and fragmentation, are not in it",
    "the products inside a fused attention kernel are not counted",
)
_OF_EXPERTS = "tokens are taken to be shared out evenly; the router, and places that a capacity drops, are not counted"


class TorchPlanner:
    """See `crosstrain.planning.Planner`."""

    def measure(self, job: Job, topology: Topology, mesh: Mapping[str, int]) -> Measured:
        """See `crosstrain.planning.Planner`."""
        fake, model, plan = _outlined(job, mesh)
        held, experts = _held(job, model, plan), job.model.experts if isinstance(job.model, GPTConfig) else None
        if experts is not None:
            fake, model, _ = _outlined(_without_experts(job), dict.fromkeys(mesh, 1))
        _require_no_experts(model)
        with fake:
            batch, rows = _micro_batch(job, mesh)
            activations, flops = _run(model, job, batch)
        compute = DTYPES[job.precision.compute_dtype].itemsize
        micro_batches = job.options.accumulate_steps
        exchanges = expected(
            plan,
            tokens=rows,
            compute_bytes=compute,
            gradient_bytes=(reduce_dtype(job.precision) or param_dtype(job.precision)).itemsize,
            micro_batches=micro_batches,
            places=0 if experts is None else experts.active * rows,
        )
        given = micro_batches * sum(_size(each) for each in batch.values())
        whole = {axis: size if axis == EXPERT_AXIS else 1 for axis, size in mesh.items()}
        gathered = sum(math.prod(p.local_shape(whole)) for p in plan.params.values()) * compute / mesh["tensor"]
        # One block, and the next one while it runs; everything else is freed after use.
        blocks = max((len(each) for each in model.modules() if isinstance(each, nn.ModuleList)), default=1)
        in_flight = min(1.0, 2 / blocks) * gathered if mesh["fsdp"] > 1 else 0.0
        # The first stage waits for the gradients of as many micro-batches as there are stages.
        share = min(micro_batches, mesh[PIPELINE_AXIS]) / mesh[PIPELINE_AXIS]
        return Measured(
            plan=plan,
            memory=Memory(
                state=held.total - held.gradients + given,
                outputs=0.0,
                temporaries=held.gradients + share * activations + in_flight,
            ),
            flops=flops * micro_batches / (mesh["tensor"] * mesh[PIPELINE_AXIS]),
            hbm_bytes=None,
            collectives=exchanges,
            notes=_NOTES if experts is None else (*_NOTES, _OF_EXPERTS),
        )

    def hold(self, setup: Setup, mesh: Mapping[str, int]) -> Held:
        """See `crosstrain.planning.Planner`."""
        _, model, plan = _outlined(setup, mesh)
        return Held(plan=plan, device=_held(setup, model, plan), whole=_held(setup, model, _on_one_device(plan)))


def planner() -> TorchPlanner:
    """For `crosstrain.backends.planner`."""
    return TorchPlanner()


def _without_experts(job: Job) -> Job:
    """What computes as much: a token passes through `active` experts, whose widths add up."""
    config = job.model
    assert isinstance(config, GPTConfig)
    assert config.experts is not None
    return replace(job, model=replace(config, experts=None, mlp_dim=config.experts.active * config.hidden_dim))


def _require_no_experts(model: nn.Module) -> None:
    stacked = next((name for name, role in naming.roles(model).items() if role == "experts"), None)
    if stacked is not None:
        raise ConfigError(
            f"a model of one's own must have no experts to be planned on torch, got {stacked}: only a run knows how "
            "many tokens each of them is given. Use the paired gpt, or --backend jax."
        )


def _maker(model: ModelConfig | Callable[[], Any]) -> Callable[[], Any]:
    if isinstance(model, ModelConfig):
        return lambda: models.MODELS[model.kind](model)
    return model


def _micro_batch(job: Job, mesh: Mapping[str, int]) -> tuple[dict[str, torch.Tensor], int]:
    """What one device sees at a time, and how many rows matrix products have: examples, times length for tokens."""
    parts = math.prod(mesh[axis] for axis in BATCH_AXES) * job.options.accumulate_steps
    placed = job.placed_batch(mesh, wide_integers=True)
    batch = {
        name: torch.empty((len(values) // parts, *values.shape[1:]), dtype=getattr(torch, str(values.dtype)))
        for name, values in placed.items()
    }
    first = next(iter(batch.values()))
    return batch, first.numel() if not first.is_floating_point() else len(first)


def _run(model: nn.Module, job: Job, batch: Mapping[str, torch.Tensor]) -> tuple[float, float]:
    """Bytes that autograd keeps between the passes, and FLOPs of both, for one micro-batch on the whole model."""
    own = {param.untyped_storage()._cdata for param in model.parameters()}
    seen: dict[int, torch.UntypedStorage] = {}

    def keep(values: torch.Tensor) -> torch.Tensor:
        storage = values.untyped_storage()
        if storage._cdata not in own:
            seen[storage._cdata] = storage
        return values

    objective = Objective(job.loss_fn, model, ())
    cast = compute_params(model, job.precision, "model.")
    given = {tensor.untyped_storage()._cdata for tensor in (*cast.values(), *batch.values())}
    try:
        with FlopCounterMode(display=False) as counter:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda values: values):
                with forward_scope(job.precision, torch.device("cpu")):
                    result = functional_call(objective, cast, (compute_batch(batch, job.precision),), tie_weights=False)
            first = result[0] if isinstance(result, tuple) and not hasattr(result, "sum") else result
            (first.sum / first.weight if hasattr(first, "weight") else first).backward()
    except DataDependentOutputException as error:
        raise ConfigError(
            f"the model and loss_fn must not read values of tensors to be planned, got {error}. "
            "Leave out calls such as .item()."
        ) from error
    return float(sum(each.nbytes() for key, each in seen.items() if key not in given)), float(counter.get_total_flops())


def _outlined(setup: Setup, mesh: Mapping[str, int]) -> tuple[FakeTensorMode, nn.Module, ShardingPlan]:
    """A model without memory in the types of its weights, and the mode in which it can run."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)  # constants that a model makes with NumPy are real
    with fake:
        model = _maker(setup.model)()
        if not isinstance(model, nn.Module):
            raise_wrong_model(model, "torch", "torch.nn.Module")
        for each in (*model.train().parameters(), *model.buffers()):
            if each.is_floating_point():
                each.data = each.data.to(param_dtype(setup.precision))
    plan = plan_model(model, naming.shapes(naming.parameters(model)), mesh, setup.sharding)
    return fake, model, plan


def _on_one_device(plan: ShardingPlan) -> ShardingPlan:
    params = {name: replace(param, stage=None) for name, param in plan.params.items()}
    return ShardingPlan(mesh=dict.fromkeys(plan.mesh, 1), params=params)


def _held(setup: Setup, model: nn.Module, plan: ShardingPlan) -> StateBytes:
    """What a device of the first stage holds."""
    params, roles, here = naming.parameters(model), naming.roles(model), plan.of_stage(0)
    parts = {
        name: torch.empty(param.local_shape(plan.mesh), dtype=params[name].dtype, device="meta")
        for name, param in plan.params.items()
    }
    weights = sum(_size(parts[name]) for name in here)
    trained = [name for name, param in params.items() if param.requires_grad]
    return StateBytes(
        parameters=weights,
        gradients=sum(_size(parts[name]) for name in trained if name in here),
        optimizer=sum(_kept(setup, parts[name], roles[name], name in here) for name in trained),
        average=weights if setup.average is not None else 0,
        buffers=sum(_size(buffer) for buffer in model.buffers()),
    )


def _kept(setup: Setup, part: torch.Tensor, role: Role, here: bool) -> int:
    """Bytes of what the optimizer keeps for this part of a parameter; of one of another stage it keeps counts only."""
    rule = RULES[type(setup.optimizer)]
    start = rule.start(setup.optimizer, part, rule.kind(setup.optimizer, role, part.ndim))
    return sum(_size(each) for each in start.values() if here or not each.is_meta)


def _size(values: torch.Tensor) -> int:
    return values.numel() * values.element_size()
