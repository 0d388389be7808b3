"""The host side of a step: the rate, the count, and the check for NaN. The engines compile the rest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np

from crosstrain.data.stacks import Stack, alike
from crosstrain.errors import ConfigError, NonFiniteLossError, require_count
from crosstrain.metrics import Metrics
from crosstrain.optim import Clipping
from crosstrain.state import Gradients, TrainState, require_trainable

NanPolicy = Literal["ignore", "raise"]
Remat = Literal["none", "full", "dots"]
Compile = Literal[False, "model", "step"]
LossFn = Callable[..., Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepOptions:
    """What a compiled training step does besides the update.

    Attributes:
        accumulate_steps: micro-batches per optimizer step; example r of the batch belongs to micro-batch
            r mod accumulate_steps, so the split does not depend on the number of devices.
        clip_norm: scale gradients so that their global L2 norm is at most this; None leaves them.
        clip_value: bound every element of the gradients to [-clip_value, clip_value]; None leaves them. At most one of
            the two limits.
        grad_norm: report the global L2 norm before clipping as `grad_norm`; always on with `clip_norm`.
        remat: what the backward pass computes again instead of keeping it, in each block of the model: `none`, `full`
            (everything but the block's input), or `dots` (everything but products with weights). A block is an
            entry of an `nnx.List` or `nn.ModuleList` that has no running statistics. The result is the same.
        compile: what `torch.compile` compiles: nothing, the forward pass with the loss and its backward pass
            (`model`), or the whole step with clipping and update (`step`). The result is the same. JAX always compiles
            whole steps, whatever stands here.
    """

    accumulate_steps: int = 1
    clip_norm: float | None = None
    clip_value: float | None = None
    grad_norm: bool = False
    remat: Remat = "none"
    compile: Compile = False

    def __post_init__(self) -> None:
        require_count("accumulate_steps", self.accumulate_steps)
        require_remat(self.remat)
        if self.compile not in get_args(Compile):
            raise ConfigError(f"compile must be False, 'model' or 'step', got compile={self.compile!r}.")
        _ = self.clipping

    @property
    def clipping(self) -> Clipping:
        """The limits on the gradient."""
        return Clipping(norm=self.clip_norm, value=self.clip_value)

    @property
    def wants_norm(self) -> bool:
        """Whether the step computes the gradient norm."""
        return self.grad_norm or self.clip_norm is not None


def require_remat(remat: str) -> None:
    """Refuses what is no way of rematerialisation.

    Raises:
        ConfigError: names those there are.
    """
    if remat not in get_args(Remat):
        raise ConfigError(f"remat must be one of {', '.join(get_args(Remat))}, got remat={remat!r}.")


def nothing_to_remat(model: Any, remat: str, container: str) -> ConfigError:
    """The error for a model without blocks."""
    return ConfigError(
        f"remat must find blocks, got remat={remat!r} for a {type(model).__name__} without entries of {container} that "
        f"have no running statistics. Keep the blocks in an {container}, or use remat='none'."
    )


StepHyper = tuple[float, float, float]
"""Rate, momentum, share of the new weights in the average."""


class RunStep(Protocol):
    """An engine's compiled step: updates `state` in place, except for its step count."""

    def __call__(self, state: Any, batch: dict[str, Any], hyper: StepHyper, others: tuple[Any, ...]) -> Metrics:
        """Takes one optimizer step with the numbers of `TrainState.hyper`."""
        ...


@runtime_checkable
class RunMany(RunStep, Protocol):
    """A compiled step of an engine on which several in one call cost less than as many calls."""

    def many(
        self, state: Any, batches: Sequence[dict[str, Any]], hypers: Sequence[StepHyper], others: tuple[Any, ...]
    ) -> list[Metrics]:
        """Takes a step for each batch, all of one structure; they may be a `Stack`."""
        ...


class NanGuard:
    """Raises when a loss is not finite, one step late, so that the device is never idle for the check."""

    def __init__(self) -> None:
        self._pending: tuple[int, Metrics] | None = None

    def watch(self, step: int, metrics: Metrics) -> None:
        """Checks the step before, and keeps this one for the next call.

        Raises:
            NonFiniteLossError: names the step whose loss was not finite.
        """
        self.finish()
        self._pending = (step, metrics)

    def finish(self) -> None:
        """Checks the last step that was watched. Waits for it.

        Raises:
            NonFiniteLossError: as `watch`.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        step, metrics = pending
        loss = metrics["loss"]
        if not np.isfinite(loss):
            raise NonFiniteLossError(
                f"loss must be finite, got loss={loss} at optimizer step {step}. "
                "Lower the learning rate, clip the gradients (clip_norm=1.0), or check that inputs are finite and "
                "labels are in range.",
                step=step,
            )


class TrainStep:
    """The compiled `step(state, batch) -> Metrics` made from a loss function.

    Further states may follow the batch; `loss_fn` receives their models after `ops`, and they are not trained.
    """

    def __init__(
        self, run: RunStep, to_device: Callable[[dict[str, Any]], dict[str, Any]], nan_policy: NanPolicy
    ) -> None:
        self._run = run
        self._to_device = to_device
        self._guard = NanGuard() if nan_policy == "raise" else None

    def __call__(self, state: TrainState, batch: dict[str, Any], *others: TrainState) -> Metrics:
        """Takes one optimizer step.

        Args:
            state: updated in place.
            batch: arrays of shape (B, ...), on the devices or on the host.
            others: states whose models `loss_fn` uses but does not train.

        Returns:
            `loss`, `learning_rate`, `grad_norm` when asked for, and what `loss_fn` reported; on the device.

        Raises:
            ConfigError: something that is no state, or the state itself among `others`. On torch, whose states hold
                the modules that were prepared, also one that shares parameters with it, and a parameter that learns
                and was given `requires_grad_(False)` after `prepare`.
            LossError: `loss_fn` returned no scalar.
            NonFiniteLossError: the loss of the step *before* was not finite and the policy is `raise`.
        """
        require_trainable(state, others)
        metrics = self._run(state, self._to_device(batch), state.hyper(), others)
        self._count(state, [metrics])
        return metrics

    def many(self, state: TrainState, batches: Sequence[dict[str, Any]], *others: TrainState) -> list[Metrics]:
        """Takes one optimizer step for each batch, with the losses of as many single calls.

        On JAX they are one call of a program that is compiled for their number (`jax.lax.scan`), which saves the cost
        of calls where steps are short. On torch, for batches of unequal shapes, and where layers thaw in between, they
        are single calls.

        Args:
            state: updated in place.
            batches: one for each step, as for a single call; or what `Loader.stacks` gives.
            others: as for a single call.

        Returns:
            The metrics of every step, on the device.

        Raises:
            NonFiniteLossError: a loss of the call *before*, or one but the last of this call, was not finite and the
                policy is `raise`.
        """
        require_trainable(state, others)
        placed: Sequence[dict[str, Any]]
        if isinstance(batches, Stack):
            placed = Stack(self._to_device(batches.fields), len(batches))
        else:
            placed = [self._to_device(batch) for batch in batches]
        if not isinstance(self._run, RunMany) or len(placed) < _FEWEST or not _alike(state, placed):
            return [self(state, batch, *others) for batch in placed]
        hypers = [state.hyper(state.step + index) for index in range(len(placed))]
        found = self._run.many(state, placed, hypers, others)
        self._count(state, found)
        return found

    def _count(self, state: TrainState, found: Sequence[Metrics]) -> None:
        first = state.step
        # Before the check, which may raise: the state has taken these steps.
        state._step += len(found)
        if self._guard is not None:
            for step, metrics in enumerate(found, first):
                self._guard.watch(step, metrics)

    def finish(self) -> None:
        """Checks the last step for NaN when the policy is `raise`. Waits for it.

        Raises:
            NonFiniteLossError: the last step's loss was not finite.
        """
        if self._guard is not None:
            self._guard.finish()


_FEWEST = 2
"""Steps that are worth a program of their own."""


def _alike(state: TrainState, batches: Sequence[dict[str, Any]]) -> bool:
    """Whether one program can take all of these steps: equal shapes, and the same parameters stand still."""
    layers = state.optimizer.layers
    still = [[group.frozen_at(state.step + index) for group in layers] for index in range(len(batches))]
    return all(each == still[0] for each in still) and (isinstance(batches, Stack) or alike(batches))


GradientStep = Callable[..., tuple[Metrics, Gradients]]
"""`(state, batch, *others) -> (metrics, gradients)`."""

EvalStep = Callable[..., Metrics]
"""`(state, batch, *others) -> metrics`; the model is in evaluation mode and does not change."""

PredictStep = Callable[..., dict[str, np.ndarray]]
"""`(state, batch, *others) -> arrays on the host`, without padded examples."""
