"""A loss function over models as one module, and how it is called with other tensors in the place of its parameters."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves

from crosstrain.data.loader import WEIGHT
from crosstrain.errors import ConfigError, DataError, LossError
from crosstrain.loss import Loss
from crosstrain.objective import read_outputs
from crosstrain.precision import Precision
from crosstrain.step import LossFn
from crosstrain_torch.ops import TorchOps
from crosstrain_torch.precision import casts, compute_batch, compute_params, wide_dtype
from crosstrain_torch.state import TorchState, with_averages

logger = logging.getLogger("crosstrain")

Batch = dict[str, torch.Tensor]
Outputs = dict[str, Loss]
"""The loss and the metrics, as sums and weights."""


def read_losses(result: Any, batch: Batch, examples: int) -> Outputs:
    """What a loss function returned.

    Raises:
        LossError: see `crosstrain.objective.read_outputs`.
    """
    loss, metrics = read_outputs(result, examples=examples, padded=WEIGHT in batch)
    return {"loss": loss, **metrics}


def detach(outputs: Outputs) -> Outputs:
    """Without their gradients."""
    return {name: Loss(_detached(loss.sum), _detached(loss.weight)) for name, loss in outputs.items()}


def _detached(part: Any) -> Any:
    return part.detach() if isinstance(part, torch.Tensor) and part.requires_grad else part


def add(total: Outputs, part: Outputs) -> Outputs:
    """Over both, in float32 or wider; of nothing and a part, that part."""
    part = {name: Loss(_widened(loss.sum), _widened(loss.weight)) for name, loss in part.items()}
    if not total:
        return part
    return {name: Loss(total[name].sum + loss.sum, total[name].weight + loss.weight) for name, loss in part.items()}


def _widened(part: Any) -> Any:
    # A weight of 100 added to 32768 in bfloat16 is 32768.
    return part.to(wide_dtype(part)) if isinstance(part, torch.Tensor) and part.is_floating_point() else part


class Objective(nn.Module):
    """A loss function over models, as a module: what DDP wraps, and where parameters are substituted."""

    def __init__(self, loss_fn: LossFn, model: nn.Module, others: tuple[nn.Module, ...]) -> None:
        super().__init__()
        self.loss_fn = loss_fn
        self.model = model
        self.others = nn.ModuleList(others)

    def forward(self, batch: Batch) -> Any:
        """What `loss_fn` returns."""
        return self.loss_fn(self.model, batch, TorchOps(batch.get(WEIGHT)), *self.others)


class Plain:
    """A loss function over a model with nothing around it, which in a small step takes as long as the update."""

    def __init__(self, loss_fn: LossFn, model: nn.Module) -> None:
        self._loss_fn, self._model = loss_fn, model

    def __call__(self, batch: Batch) -> Any:
        """What `loss_fn` returns."""
        return self._loss_fn(self._model, batch, TorchOps(batch.get(WEIGHT)))


def is_plain(state: TorchState, others: tuple[TorchState, ...], precision: Precision, device: torch.device) -> bool:
    """Whether `Plain` is all that a forward pass is: no casts, no other models, nothing split, reported or set."""
    casting = casts(precision) or precision.casts_batch or precision.casting == "autocast"
    spread = bool(state.gathered) or state.shards.split or state.sequence is not None
    return not (casting or spread or others or state.has_experts or device.type == "cuda")


def call(
    objective: nn.Module,
    batch: Batch,
    precision: Precision,
    *,
    state: TorchState,
    others: tuple[TorchState, ...],
    averaged: bool = False,
) -> Any:
    """Calls an objective with parameters in the compute type; models in `others` neither learn nor change.

    With `averaged` the state's averages stand in for its parameters.
    """
    prefix = "module." if isinstance(objective, DistributedDataParallel) else ""
    if precision.casts_batch:
        batch = compute_batch(batch, precision)
    if state.sequence is not None:
        state.sequence.lengths = frozenset(values.shape[1] for values in batch.values() if values.ndim > 1)
    # What FSDP gathers cannot be substituted: then the averages take the place of the weights in memory.
    swapped = averaged and state.gathered
    split = any(each.shards.split for each in (state, *others))
    with _of_split_parameters(state, others, bool(swapped)) if split else contextlib.nullcontext():
        substituted: dict[str, torch.Tensor] = {}
        if averaged or casts(precision):
            averages = {} if swapped or not averaged else state.averages
            replaced = {id(state.params[name]): average for name, average in averages.items()}
            substituted |= compute_params(state.model, precision, f"{prefix}model.", replaced, skip=state.gathered)
        seen: set[nn.Module] = set()
        for index, other in enumerate(others):
            substituted |= _frozen(other, precision, f"{prefix}others.{index}.", seen)
        if not substituted:
            result = objective(batch)
        else:
            result = functional_call(objective, substituted, (batch,), tie_weights=False)
        if split and any(isinstance(leaf, DTensor) for leaf in tree_leaves(result)):
            raise _split_parameters()
        return result


def require_apart(state: TorchState, others: tuple[TorchState, ...]) -> None:
    """Refuses further states with parameters of the one in training: they would stand still there, and so in it.

    Raises:
        ConfigError: names one.
    """
    own = {id(param): name for name, param in state.params.items()}
    shared = [own[id(param)] for other in others for param in other.params.values() if id(param) in own]
    if shared:
        raise ConfigError(
            "the states after the batch must share no parameter with the one in training on the torch engine, got "
            f"{shared[0]} ({len(shared)} in all) in both. Build the shared module twice, or copy.deepcopy it before "
            "accelerator.prepare; or make one model of both."
        )


def note_newcomers(state: TorchState) -> None:
    """Says which parameters were put into a module after `prepare`: no step updates them and nothing saves them."""
    if state.shards.split:  # FSDP2 puts whole ones in the place of its own
        return
    own = set(state.params.values())
    new = [name for name, param in state.model.named_parameters() if param.requires_grad and param not in own]
    if new:
        logger.warning(
            "%s (%d in all) came into the model after accelerator.prepare and will not learn. Prepare it after that.",
            *(new[0], len(new)),
        )


def call_alone(objective: nn.Module, batch: Batch, precision: Precision) -> Any:
    """As `call`, of one model that is not split, with its own weights: nothing but what a compiler can trace."""
    if precision.casts_batch:
        batch = compute_batch(batch, precision)
    if not casts(precision):
        return objective(batch)
    return functional_call(objective, compute_params(objective.model, precision, "model."), (batch,), tie_weights=False)


def micro_batches(batch: Batch, rows: torch.Tensor, count: int) -> Iterator[tuple[Batch, torch.Tensor]]:
    """The parts of a batch with their rows: example r is in part r mod count.

    Raises:
        DataError: the batch does not split into so many.
    """
    if len(rows) % count:
        raise micro_batch_error(len(rows), count)
    for index in range(count):
        part = slice(index, None, count)
        yield {name: values[part] for name, values in batch.items()}, rows[part]


def micro_batch_error(examples: int, count: int) -> DataError:
    """The error for a batch that does not split into micro-batches."""
    return DataError(
        f"the batch must be a multiple of accumulate_steps on every process, got {examples} examples for "
        f"accumulate_steps={count}. Use a batch size that accumulate_steps times the data axis divides."
    )


def _frozen(other: TorchState, precision: Precision, prefix: str, seen: set[nn.Module]) -> dict[str, torch.Tensor]:
    buffers = {
        f"{prefix}{path}{'.' if path else ''}{name}": buffer.clone()
        for path, module in other.model.named_modules(set(seen))
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
    }
    params = compute_params(other.model, precision, prefix, skip=other.gathered, seen=seen)
    return {name: tensor.detach() for name, tensor in params.items()} | buffers


@contextlib.contextmanager
def _of_split_parameters(state: TorchState, others: tuple[TorchState, ...], swapped: bool) -> Iterator[None]:
    """Parameters that FSDP gathers stand still in `others`; torch's error for those that are split is said in words."""
    gathered = [param for other in others for param in other.gathered if param.requires_grad]
    for param in gathered:
        param.requires_grad_(False)
    try:
        with with_averages(state) if swapped else contextlib.nullcontext():
            yield
    except RuntimeError as error:
        if "mixed torch.Tensor and DTensor" not in str(error):
            raise
        raise _split_parameters() from error
    finally:
        for param in gathered:
            param.requires_grad_(True)


def _split_parameters() -> LossError:
    return LossError(
        "a loss function must use parameters that are split over a mesh through the model's own call, got one that "
        "reads them or calls a part of the model. Call model(...); for a penalty on weights use weight_decay."
    )
