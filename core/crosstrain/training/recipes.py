"""The part of `Trainer` that plans rates: one cycle, flat and cosine, fine-tuning, freezing."""

# mypy: disable-error-code="empty-body"
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from crosstrain.abstract import abstractmethod
from crosstrain.accelerator import Accelerator
from crosstrain.data.phases import Batches, require_batches
from crosstrain.errors import ConfigError
from crosstrain.optim import OptimizerSpec
from crosstrain.state import TrainState
from crosstrain.training.history import History
from crosstrain.training.layers import check_layers, default_layers
from crosstrain.training.plans import (
    NOT_NORMS,
    Cycle,
    Rate,
    cut,
    fine_tune_plan,
    flat_cos_plan,
    give_back,
    one_cycle_plan,
    planned_steps,
    require_several,
)

if TYPE_CHECKING:
    from crosstrain.checkpoint import CheckpointSpec


class Recipes:
    """What `Trainer` does by plans; every one of them is one call of `fit`."""

    accelerator: Accelerator
    state: TrainState
    _layers: tuple[str, ...] | None

    @abstractmethod
    def fit(
        self,
        loader: Batches,
        *,
        epochs: int | None = None,
        steps: int | None = None,
        eval_loader: Batches | None = None,
        checkpoints: "CheckpointSpec | None" = None,
        resume: Literal["auto"] | None = None,
    ) -> History:
        """See `Trainer`."""

    @property
    def layers(self) -> tuple[str, ...]:
        """The layer groups, from first to last."""
        if self._layers is None:
            self._layers = default_layers(self.state)
        return self._layers

    def _set_layers(self, layers: Sequence[str]) -> None:
        self._layers = check_layers(layers, self.state) if layers else None

    def fit_one_cycle(
        self,
        loader: Batches,
        epochs: int,
        max_lr: Rate,
        *,
        cycle: Cycle | None = None,
        eval_loader: Batches | None = None,
        checkpoints: "CheckpointSpec | None" = None,
        resume: Literal["auto"] | None = None,
    ) -> History:
        """Trains by the one-cycle policy: the rate goes up and down once, the momentum against it.

        The cycle replaces the schedule of the optimizer for the steps of this call only. Nothing is compiled for it.

        Args:
            loader: training batches, of known length.
            epochs: passes over the data.
            max_lr: the peak; `slice(low, high)` for layer groups from first to last.
            cycle: whose parametrisation, and its numbers; by default fastai's.
            eval_loader: see `fit`.
            checkpoints: see `fit`.
            resume: see `fit`.

        Raises:
            ConfigError: as `fit`, a number out of range, or a loader without length.
        """
        base, start, first = self._beginning(loader, checkpoints, resume)
        steps = planned_steps(loader, epochs, first)
        plan = one_cycle_plan(base, max_lr, cycle or Cycle(), self.layers, start, steps)
        return self._follow(plan, start + steps, loader, epochs, eval_loader, checkpoints, resume)

    def fit_flat_cos(
        self,
        loader: Batches,
        epochs: int,
        learning_rate: Rate,
        *,
        final_div: float = 1e5,
        pct_start: float = 0.75,
        eval_loader: Batches | None = None,
        checkpoints: "CheckpointSpec | None" = None,
        resume: Literal["auto"] | None = None,
    ) -> History:
        """Trains at a flat rate for `pct_start` of the run, then down half a cosine to its `final_div`-th part.

        Args and errors as `fit_one_cycle`; see `ct.flat_cos` for the formula.
        """
        base, start, first = self._beginning(loader, checkpoints, resume)
        steps = planned_steps(loader, epochs, first)
        shape = {"final_div": final_div, "pct_start": pct_start}
        plan = flat_cos_plan(base, learning_rate, self.layers, start, steps, **shape)
        return self._follow(plan, start + steps, loader, epochs, eval_loader, checkpoints, resume)

    def fine_tune(
        self,
        loader: Batches,
        epochs: int,
        base_lr: float = 2e-3,
        *,
        freeze_epochs: int = 1,
        lr_mult: float = 100.0,
        pct_start: float = 0.3,
        div: float = 5.0,
        eval_loader: Batches | None = None,
        checkpoints: "CheckpointSpec | None" = None,
        resume: Literal["auto"] | None = None,
    ) -> History:
        """fastai's `fine_tune`: the last layer group first, then all, the first layers at the lowest rates.

        For `freeze_epochs` all layer groups but the last stand still, their norms apart, over a cycle up to `base_lr`.
        Then all learn for `epochs`, over a cycle up to half of it; the rate of the first group is its `lr_mult`-th
        part. One `fit`: callbacks see one run of freeze_epochs + epochs, and it resumes in either part.

        Args:
            loader: training batches, of known length.
            epochs: passes with all layers.
            base_lr: peak rate of the last layer group while the others stand still.
            freeze_epochs: passes before that.
            lr_mult: rate of the last layer group / rate of the first.
            pct_start: share of the second cycle spent going up.
            div: peak / first rate of the second cycle.
            eval_loader: see `fit`.
            checkpoints: see `fit`.
            resume: see `fit`.

        Raises:
            ConfigError: as `fit_one_cycle`.
        """
        base, start, first = self._beginning(loader, checkpoints, resume)
        frozen_steps = planned_steps(loader, freeze_epochs, first, "freeze_epochs")
        steps = frozen_steps, planned_steps(loader, epochs, first + freeze_epochs)
        shape = {"lr_mult": lr_mult, "pct_start": pct_start, "div": div}
        plan = fine_tune_plan(base, base_lr, self.layers, start, steps, **shape)
        end = start + sum(steps)
        return self._follow(plan, end, loader, freeze_epochs + epochs, eval_loader, checkpoints, resume)

    def freeze(self, count: int | None = None) -> None:
        """Leaves the first `count` layer groups as they are, norms apart, from now on; None: all but the last.

        As fastai, norms of frozen layers go on learning. `trainer.state.freeze(match)` freezes by name instead.

        Raises:
            ConfigError: no such number of layer groups, or a single one.
        """
        require_several(self.layers, "to freeze the first")
        count = len(self.layers) - 1 if count is None else count
        if not 0 < count < len(self.layers):
            raise ConfigError(f"count must be in [1, {len(self.layers) - 1}] for layers={self.layers}, got {count}.")
        self.unfreeze()
        for match in self.layers[:count]:
            self.state.freeze(match, roles=NOT_NORMS)

    def unfreeze(self) -> None:
        """Lets every parameter learn again."""
        self.state.unfreeze()

    def _beginning(
        self, loader: Batches, checkpoints: "CheckpointSpec | None", resume: Literal["auto"] | None
    ) -> tuple[OptimizerSpec, int, int]:
        """The optimizer before a plan, and its first step and epoch: where the run began that is resumed, else now.

        That run may have been left in this very process, where state and loader are past its beginning.
        """
        require_batches("loader", loader)
        began = None
        if checkpoints is not None and resume is not None:
            from crosstrain.checkpoint import Checkpoints

            began = Checkpoints(self.accelerator, checkpoints.root).beginning()
        if began is None:
            return self.state.optimizer, self.state.step, loader.epoch
        step, epoch = began
        return cut(self.state.optimizer, step), step, loader.epoch if epoch is None else epoch

    def _follow(
        self,
        plan: OptimizerSpec,
        end: int,
        loader: Batches,
        epochs: int,
        eval_loader: Batches | None,
        checkpoints: "CheckpointSpec | None",
        resume: Literal["auto"] | None,
    ) -> History:
        before = self.state.optimizer
        self.state.change_optimizer(plan)
        try:
            return self.fit(loader, epochs=epochs, eval_loader=eval_loader, checkpoints=checkpoints, resume=resume)
        finally:
            after = self.state.optimizer
            if self.state.step < end:  # stopped early: what comes next is no part of this plan
                after = cut(after, self.state.step)
            self.state.change_optimizer(give_back(after, before))
