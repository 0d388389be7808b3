"""`Trainer`: the training loop, once, for both engines."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from crosstrain.accelerator import Accelerator
from crosstrain.callbacks import Callback, Run
from crosstrain.data.phases import Batches, require_batches
from crosstrain.data.viewing import Views
from crosstrain.errors import CheckpointError, ConfigError, require_count, require_instance, require_spec
from crosstrain.metrics import MetricSum
from crosstrain.state import TrainState, require_states
from crosstrain.step import Compile, LossFn, Remat, StepOptions
from crosstrain.training.history import History
from crosstrain.training.loop import Loop
from crosstrain.training.recipes import Recipes

if TYPE_CHECKING:
    from crosstrain.checkpoint import CheckpointSpec, Saver
    from crosstrain.trackers import Tracker
    from crosstrain.training.lr_find import RangeCurve, RangeTest

_CHECKPOINTS = "checkpoints=ct.CheckpointSpec(root='runs/mine')"


class Trainer(Recipes):
    """Trains, evaluates and predicts with one state.

    Args:
        accelerator: of the engine that `state` lives on.
        state: from `accelerator.prepare`.
        loss_fn: see `Accelerator.train_step`.
        accumulate_steps: see `StepOptions`.
        clip_norm: see `StepOptions`.
        clip_value: see `StepOptions`.
        grad_norm: see `StepOptions`.
        remat: see `StepOptions`.
        compile: see `StepOptions`.
        layers: layer groups from first to last, one regular expression each, searched in canonical names; every
            parameter belongs to exactly one. For rates of layers and for `fine_tune`. By default the last layer, where
            names tell which it is (`head`, `lm_head`, `classifier`, `fc`, the highest number), and all before it.
        log_every: optimizer steps between reads of the metrics.
        steps_per_call: optimizer steps in one call of the compiled step, see `TrainStep.many`; the losses are the same.
            Callbacks hear of a call when it is over, and stop or save there.
        callbacks: called in this order.
        trackers: where logged steps and evaluations go, from the main process; see `ct.trackers`. They have what
            callbacks add to a record.
        progress: show a progress bar on the terminal of the main process.

    Raises:
        ConfigError: an option out of range, or what is no accelerator, state, callback or tracker.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        state: TrainState,
        loss_fn: LossFn,
        *,
        accumulate_steps: int = 1,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        grad_norm: bool = False,
        remat: Remat = "none",
        compile: Compile = False,
        layers: Sequence[str] = (),
        log_every: int = 10,
        steps_per_call: int = 1,
        callbacks: Sequence[Callback] = (),
        trackers: "Sequence[Tracker]" = (),
        progress: bool = True,
    ) -> None:
        require_instance("accelerator", accelerator, Accelerator, "ct.Accelerator('jax')")
        require_states(state)
        _require_instances("callbacks", callbacks, Callback, "ct.callbacks.Recorder()")
        _require_instances("trackers", trackers, object, "ct.trackers.JsonLines('run.jsonl')")
        require_count("log_every", log_every)
        require_count("steps_per_call", steps_per_call)
        self.accelerator, self.state, self.loss_fn = accelerator, state, loss_fn
        self.history = History()
        self._set_layers(layers)
        self._callbacks = tuple(callbacks)
        if trackers:
            from crosstrain.trackers import Tracking

            self._callbacks += (Tracking(tuple(trackers)),)
        if progress:
            from crosstrain.progress import ProgressBar

            self._callbacks += (ProgressBar(title=accelerator.backend),)
        self._log_every, self._steps_per_call = log_every, steps_per_call
        self.options = StepOptions(
            accumulate_steps=accumulate_steps,
            clip_norm=clip_norm,
            clip_value=clip_value,
            grad_norm=grad_norm,
            remat=remat,
            compile=compile,
        )
        self._step = accelerator.train_step(loss_fn, **asdict(self.options))
        self._eval_step = accelerator.eval_step(loss_fn)

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
        """Trains for `epochs` passes over the loader, or for `steps` optimizer steps.

        Args:
            loader: training batches.
            epochs: passes over the data; give this or `steps`.
            steps: optimizer steps, over as many passes as it takes.
            eval_loader: evaluated after every epoch, and at the end.
            checkpoints: when to save, and what to keep.
            resume: `auto` goes on from the newest whole checkpoint where there is one: with the same engine and
                layout bit for bit, in the middle of an epoch. `epochs` and `steps` count from the first start.

        Returns:
            The history over all calls so far.

        Raises:
            ConfigError: neither or both of `epochs` and `steps`, or less than one; `resume` without `checkpoints`; what
                is no loader.
            CheckpointError: a checkpoint cannot be written, or does not fit.
            NonFiniteLossError: the accelerator's `nan_policy` is `raise`, and a loss was not finite.
        """
        require_batches("loader", loader)
        if eval_loader is not None:
            require_batches("eval_loader", eval_loader)
        run = self._begin(loader, epochs, steps)
        savers = self._saving(run, loader, checkpoints, resume)
        loop = Loop(
            run,
            self._callbacks + savers,
            self._step,
            self.history,
            log_every=self._log_every,
            steps_per_call=self._steps_per_call,
            evaluate=None if eval_loader is None else partial(self.evaluate, eval_loader),
            ended=any(saver.ended_at is not None for saver in savers),
        )
        loop(loader)
        return self.history

    def resume(
        self,
        loader: Batches,
        *,
        checkpoints: "CheckpointSpec",
        epochs: int | None = None,
        steps: int | None = None,
        eval_loader: Batches | None = None,
    ) -> History:
        """Goes on with a run of `fit` that was saved; `fit(resume="auto")`, but with no checkpoint nothing is trained.

        Recipes go on with their own `resume="auto"`, which plans the schedule anew.

        Args:
            loader: as in `fit`.
            checkpoints: where the run was saved, and when to save from here on.
            epochs: as in `fit`, from the first start.
            steps: as in `fit`, from the first start.
            eval_loader: as in `fit`.

        Raises:
            CheckpointError: there is no checkpoint, or as `fit`.
            ConfigError: as `fit`.
        """
        from crosstrain.checkpoint import Checkpoints, CheckpointSpec

        require_instance("checkpoints", checkpoints, CheckpointSpec, _CHECKPOINTS)
        if not Checkpoints(self.accelerator, checkpoints.root).steps():
            raise CheckpointError(
                f"root must hold a checkpoint to resume from, got root={str(checkpoints.root)!r} without one. Give the "
                'folder that the run was saved to, or start it by fit(checkpoints=..., resume="auto").'
            )
        return self.fit(
            loader, epochs=epochs, steps=steps, eval_loader=eval_loader, checkpoints=checkpoints, resume="auto"
        )

    def lr_find(self, loader: Batches, test: "RangeTest | None" = None) -> "RangeCurve":
        """The learning-rate range test: the loss at rates that grow, and what to read off it.

        Weights, moments, averages, step, random state and the loader's position are afterwards what they were, bit for
        bit; histories and callbacks hear nothing of it.

        Args:
            loader: training batches; read from where it stands, over as many epochs as it takes.
            test: first and last rate, steps, and where to stop; by default 1e-7 to 10 in 100 steps, as fastai.

        Returns:
            The curve: `curve.valley` is fastai's suggestion, `curve.plot("lr.png")` and `print(curve.text())` show it.
        """
        from crosstrain.training.lr_find import RangeTest, range_test

        require_batches("loader", loader)
        return range_test(self._step, self.state, loader, test or RangeTest())

    def evaluate(self, loader: Batches) -> dict[str, float]:
        """Loss and metrics over all examples of a loader, each example counted once; the state does not change.

        On islands each evaluates its part with its own weights, and all have the result over all of them.
        """
        total = MetricSum()
        for batch in _once(loader):
            total.add(self._eval_step(self.state, batch))
        return total.result(self.accelerator.reduce if self.accelerator.islands else None)

    def predict(self, loader: Batches | Views, predict_fn: Callable[..., Any]) -> dict[str, np.ndarray]:
        """What `predict_fn(model, batch, ops)` gives for all examples of a loader, in their order.

        Args:
            loader: made with shuffle=False when the order of the source is wanted; or `ct.data.views`, over which the
                arrays are averaged with their weights.
            predict_fn: returns an array of shape (B, ...), or a dict of such.

        Returns:
            Arrays of shape (number of examples, ...), without those of weight 0; a bare array is called `prediction`.
        """
        step = self.accelerator.predict_step(predict_fn)

        def of(each: Batches) -> dict[str, np.ndarray]:
            parts = [step(self.state, batch) for batch in _once(each)]
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}

        return loader.average(of) if isinstance(loader, Views) else of(loader)

    def _begin(self, loader: Batches, epochs: int | None, steps: int | None) -> Run:
        if (epochs is None) == (steps is None):
            raise ConfigError(f"give either epochs or steps, got epochs={epochs} and steps={steps}.")
        for name, value in (("epochs", epochs), ("steps", steps)):
            if value is not None:
                require_count(name, value)
        return Run(
            trainer=self,
            state=self.state,
            is_main_process=self.accelerator.is_main_process,
            batch_size=loader.batch_size,
            epochs=epochs,
            total_steps=steps if epochs is None else _known_steps(loader, epochs),
        )

    def _saving(
        self, run: Run, loader: Batches, checkpoints: "CheckpointSpec | None", resume: str | None
    ) -> "tuple[Saver, ...]":
        if resume not in (None, "auto") or (resume and checkpoints is None):
            raise ConfigError(
                f"resume must be None, or 'auto' together with checkpoints, got resume={resume!r} and "
                f"checkpoints={checkpoints}. Pass checkpoints=ct.CheckpointSpec(root=...)."
            )
        if checkpoints is None:
            return ()
        from crosstrain.checkpoint import CheckpointSpec, Saver

        require_spec("checkpoints", checkpoints, CheckpointSpec, _CHECKPOINTS)
        run.checkpoints = checkpoints
        saver = Saver(self.accelerator, loader, checkpoints, self._callbacks)
        if resume and saver.resume(run) is not None and run.epochs is not None:
            # The loader stood anywhere before; epochs of a `PhasedLoader` differ in length.
            run.total_steps = _known_steps(loader, run.epochs, loader.epoch - run.epoch)
        return (saver,)


def _require_instances(name: str, given: Any, kind: type, example: str) -> None:
    if not isinstance(given, Sequence) or not all(
        isinstance(each, kind) and not isinstance(each, type) for each in given
    ):
        raise ConfigError(f"{name} must be a list of {name}, got {given!r}. Use for example {name}=[{example}].")


def _known_steps(loader: Batches, epochs: int, first: int | None = None) -> int | None:
    try:
        return loader.steps(epochs, first)
    except TypeError:
        return None


def _once(loader: Batches) -> Iterator[dict[str, Any]]:
    """One pass that leaves the loader where it was, so that evaluating changes no order."""
    require_batches("loader", loader)
    with loader.aside():
        yield from loader
