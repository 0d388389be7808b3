"""`Accelerator`: devices, mesh, precision, compilation and randomness of a run, behind one interface.

This file is the seam. Everything below it that is said once (rates, data order, padding, weighting, checks) stands
in core; the engines implement the abstract methods.
"""

# mypy: disable-error-code="empty-body"
import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from crosstrain import backends
from crosstrain.abstract import abstractmethod
from crosstrain.data.loader import Loader, LoaderSpec, TransformLike, TransformOn
from crosstrain.data.resident import Resident
from crosstrain.deepspeed import DeepSpeed
from crosstrain.errors import ConfigError, DataError, as_seed, require_spec
from crosstrain.exchange import Call
from crosstrain.folding import words
from crosstrain.handover import HandOver
from crosstrain.memory import Memory
from crosstrain.mesh import MeshSpec
from crosstrain.meshes import Meshes
from crosstrain.optim import Averaging, OptimizerSpec
from crosstrain.precision import Precision, require_casting
from crosstrain.probe import Inspection
from crosstrain.processes import Processes
from crosstrain.program_cache import CompileCache, cache_folder
from crosstrain.sharding import ShardingRules
from crosstrain.state import TrainState
from crosstrain.step import (
    Compile,
    EvalStep,
    GradientStep,
    LossFn,
    NanPolicy,
    PredictStep,
    Remat,
    RunStep,
    StepOptions,
    TrainStep,
)

if TYPE_CHECKING:
    from crosstrain import checkpoint
    from crosstrain.models.spec import ModelConfig

Platform = Literal["cpu", "gpu", "tpu"]


class Accelerator(Inspection, HandOver, Memory, Meshes, Processes):
    """One training interface over the devices of this run.

    `Accelerator("jax")` returns that engine's subclass, as `pathlib.Path` does; `Accelerator()` the installed one's.

    Args:
        backend: name of an engine, or None.
        precision: a preset (`fp64`, `fp32`, `bf16`, `bf16-autocast`, `bf16-pure`) or a `Precision`.
        mesh: sizes of the mesh axes; by default all devices are data-parallel.
        sharding: how parameters are split over the mesh; by default as paired models say, others automatically.
        seed: decides initial weights, data order and dropout masks.
        nan_policy: `raise` stops at the first loss that is not finite, one step late; `ignore` never looks.
        platform: `cpu`, `gpu` or `tpu`; None takes the best there is.
        debug: processes agree on every batch before a step uses it, so that one that gives other shapes, or does
            something else, is named instead of waited for. Costs an exchange per step.
        deepspeed: ZeRO by DeepSpeed on the torch engine (`pip install 'crosstrain[deepspeed]'`).
        compile_cache: where compiled programs are kept for the next start: True in the user's cache folder, or a
            folder; False leaves the framework's settings. A folder that the framework was given goes first.
        islands: each process trains alone, with a mesh of its own devices on its part of every batch; what brings them
            together is `ct.callbacks.OuterSteps`. Losses, snapshots and predictions are then those of the process.

    Raises:
        BackendError: the engine is unknown or not installed.
        ConfigError: an option out of range, a mesh that does not fit the devices, a platform that is not there.
    """

    backend: ClassVar[str]
    _native_model: ClassVar[str]
    _has_deepspeed: ClassVar[bool] = False

    def __new__(cls, backend: str | None = None, **options: Any) -> "Accelerator":
        """The subclass of the engine that was named."""
        if cls is Accelerator:
            return super().__new__(backends.load(backend))
        if backend not in (None, cls.backend):
            raise ConfigError(f"backend must be {cls.backend!r} for {cls.__name__}, got backend={backend!r}.")
        return super().__new__(cls)

    def __init__(
        self,
        backend: str | None = None,
        *,
        precision: Precision | str = "fp32",
        mesh: MeshSpec | None = None,
        sharding: ShardingRules | None = None,
        seed: int = 0,
        nan_policy: NanPolicy = "ignore",
        platform: Platform | None = None,
        debug: bool = False,
        deepspeed: DeepSpeed | None = None,
        compile_cache: CompileCache = True,
        islands: bool = False,
    ) -> None:
        if nan_policy not in get_args(NanPolicy):
            raise ConfigError(f"nan_policy must be 'ignore' or 'raise', got nan_policy={nan_policy!r}.")
        if platform not in (None, *get_args(Platform)):
            raise ConfigError(f"platform must be cpu, gpu, tpu or None, got platform={platform!r}.")
        if deepspeed is not None and not self._has_deepspeed:
            raise ConfigError(
                f"deepspeed must be None on the {self.backend} engine, got {deepspeed}. "
                "Use mesh=ct.MeshSpec(fsdp=N), which splits what ZeRO does, or the torch engine."
            )
        if deepspeed is not None and islands:
            raise ConfigError(f"deepspeed must be None on islands, which share nothing, got {deepspeed}. Use one.")
        self.precision, self.deepspeed = Precision.parse(precision), deepspeed
        require_casting(self.precision, self.backend, self._castings)
        self.seed = as_seed(seed)
        self.nan_policy: NanPolicy = nan_policy
        self._cache_folder = cache_folder(compile_cache, self.backend)
        self.islands = islands
        self._open(platform)
        self.mesh_sizes = self._fit_mesh(mesh or MeshSpec())
        if deepspeed is not None:
            deepspeed.require_mesh(self.mesh_sizes)
        require_spec("sharding", sharding, ShardingRules, "ct.ShardingRules()")
        self.sharding = sharding or ShardingRules()
        self.debug = debug
        same = {"precision": self.precision, "mesh": self.mesh_sizes, "seed": self.seed, "nan_policy": nan_policy}
        same |= {"sharding": self.sharding, "deepspeed": deepspeed, "islands": islands}
        # Before the mesh is built, for which processes of other meshes would wait for each other.
        self._meet({"backend": self.backend, **same, "debug": debug})
        self._build_mesh()
        self._share_parts(*self._loaded_part)

    # What a training script calls.

    def prepare(
        self, model: Any, optimizer: OptimizerSpec | None = None, *, average: Averaging | None = None
    ) -> TrainState:
        """Places a native model on the devices and gives it an optimizer.

        Args:
            model: a `flax.nnx.Module` on JAX, a `torch.nn.Module` on torch. JAX copies its arrays; torch trains
                the module itself. Or a function that makes one: then it is never whole on a device.
            optimizer: None for a state that is only evaluated.
            average: `ct.ema(...)` or `ct.swa(...)`: an average of the weights that every step updates.

        Raises:
            ModelError: the model belongs to another framework.
            ConfigError: `optimizer` is not an `OptimizerSpec`, or `average` no `Averaging`.
        """
        if inspect.isroutine(model) or isinstance(model, functools.partial):
            model = self._make_model(model)
        if not self._is_native_model(model):
            backends.raise_wrong_model(model, self.backend, self._native_model)
        if optimizer is not None and not isinstance(optimizer, OptimizerSpec):
            raise ConfigError(
                f"optimizer must be an OptimizerSpec, got {type(optimizer).__name__}. "
                "Use ct.sgd, ct.adamw or another of ct.optim; the engine builds the native optimizer from it."
            )
        require_spec("average", average, Averaging, "ct.ema(0.999)")
        config = self._config_of(model)  # before FSDP gives the module a class of its own
        state = self._prepare(model, optimizer, average)
        state.model_config = config
        return state

    def loader(
        self,
        source: Any,
        *,
        batch_size: int | None = None,
        shuffle: bool = False,
        seed: int | None = None,
        drop_last: bool = False,
        even_batches: bool = True,
        transform: TransformLike | None = None,
        transform_on: TransformOn = "host",
        workers: int = 0,
        class_counts: Mapping[str, int] | None = None,
    ) -> Loader:
        """Batches of a source, placed on the devices. One iteration is one epoch.

        Args:
            source: a dict of arrays (rows are examples), a source of `ct.data` or `resident`, an object with `__len__`
                and `__getitem__` that gives a dict, an HF dataset, a torch `DataLoader`, or an iterable of examples.
            batch_size: examples per *global* batch, over all processes; taken from a DataLoader when None.
            shuffle: a new order each epoch, a function of (seed, epoch) only.
            seed: by default the accelerator's.
            drop_last: leave out a last batch that is not full.
            even_batches: pad to one shape that the data axis divides, with examples of the same epoch whose weight
                is 0 in `batch["weight"]`, so that losses and metrics of `ops` do not count them.
            transform: of `ct.data`, or a function of this process's part of a batch; keeps the number of examples.
            transform_on: `device` copies images as they are in the source and changes them there (compiled once per
                shape of batch on JAX); for the transforms of images of `ct.data`. The batches are the same.
            workers: threads that gather a batch; for sources that are slow per example.
            class_counts: field -> number of classes; labels outside [0, count) (other than -100) are refused.

        Raises:
            DataError: an empty source, a batch size that cannot be placed, labels out of range, and while iterating a
                batch in which every example weighs 0.
        """
        spec = LoaderSpec(
            batch_size=batch_size,
            shuffle=shuffle,
            seed=self.seed if seed is None else as_seed(seed),
            drop_last=drop_last,
            even_batches=even_batches,
            transform=transform,
            transform_on=transform_on,
            workers=workers,
            class_counts=dict(class_counts or {}),
        )
        if isinstance(source, Resident) and source.owner is not self:
            raise DataError("a resident source must be used by the accelerator that made it, got another's.")
        return Loader(source, spec, self._placement())

    def train_step(
        self,
        loss_fn: LossFn,
        *,
        accumulate_steps: int = 1,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        grad_norm: bool = False,
        remat: Remat = "none",
        compile: Compile = False,
    ) -> TrainStep:
        """Compiles a loss function into `step(state, batch) -> Metrics`.

        `loss_fn(model, batch, ops)` returns a scalar (the mean over the batch's examples) or a `Loss`, or a pair of
        that and a dict of metrics, each a scalar or a `Loss`. The step optimises exactly sum / weight over the
        global batch, whatever the micro-batches and devices.

        Args:
            loss_fn: see above; the model is in training mode.
            accumulate_steps: see `StepOptions`.
            clip_norm: see `StepOptions`.
            clip_value: see `StepOptions`.
            grad_norm: see `StepOptions`.
            remat: see `StepOptions`.
            compile: see `StepOptions`.

        Raises:
            ConfigError: an option out of range, or one that the engine cannot compile on this mesh.
        """
        options = StepOptions(
            accumulate_steps=accumulate_steps,
            clip_norm=clip_norm,
            clip_value=clip_value,
            grad_norm=grad_norm,
            remat=remat,
            compile=compile,
        )
        return TrainStep(self._train_step(loss_fn, options), self.to_device, self.nan_policy)

    @abstractmethod
    def value_and_grad(self, loss_fn: LossFn, *, remat: Remat = "none") -> GradientStep:
        """One level below `train_step`, for custom loops: `(state, batch, *others) -> (metrics, gradients)`.

        Follow it by `state.apply_gradients(gradients)`. `others` are states whose models `loss_fn` receives after
        `ops`; they are not trained and their buffers do not change. `remat` as in `train_step`.

        Raises:
            ConfigError: `remat` is none of those there are.
        """

    @abstractmethod
    def eval_step(self, loss_fn: LossFn, *, averaged: bool = False) -> EvalStep:
        """Compiles `(state, batch, *others) -> Metrics` with the model in evaluation mode and no gradients.

        `averaged` evaluates the averaged weights; the state must have been prepared with `average`.
        """

    @abstractmethod
    def predict_step(self, predict_fn: Callable[..., Any], *, averaged: bool = False) -> PredictStep:
        """Compiles `predict_fn(model, batch, ops)` to `(state, batch, *others) -> dict of NumPy arrays`.

        `predict_fn` returns an array of shape (B, ...) or a dict of such. Padded examples are removed, and every
        process receives the examples of all, in the order of the global batch. `averaged` as in `eval_step`.
        """

    def to_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch as it is when it is on the devices already, else this process's part placed as the loader would.

        Raises:
            CollectiveError: with `debug`, a process that gives other fields, shapes or types, or makes another call.
            DataError: not a dict of arrays, or the data axis does not divide the batch.
        """
        return self._to_devices(batch, together=False)

    def _to_devices(self, batch: dict[str, Any], together: bool = True) -> dict[str, Any]:
        """`to_device`; processes agree on a batch before, of which what comes is put `together` over all of them."""
        ready = type(batch) is dict and batch and all(map(self._is_placed, batch.values()))
        if not (self.debug or (together and self.process_count > 1 and not self.islands)):
            return batch if ready else self._put(self._placement().check(self._own_rows(batch)))
        own = batch if ready else self._guard("a step", lambda: self._placement().check(self._own_rows(batch)))
        self._agree(Call("a step", tuple((name, words(own[name])) for name in sorted(own))))
        return batch if ready else self._put(own)

    # What an engine gives.

    @abstractmethod
    def synchronize(self) -> None:
        """Returns once all work that was sent to this process's devices is done. For timing."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Framework versions, devices and processes, for `crosstrain env` and reports."""

    @abstractmethod
    def close(self) -> None:
        """Leaves the process group, after the others have come so far. Call it once, at the end of the script."""

    @abstractmethod
    def _open(self, platform: Platform | None) -> None:
        """Finds devices and processes: sets `process_index`, `process_count`, `device_count`, `_array_type`."""

    @abstractmethod
    def _prepare(self, model: Any, optimizer: OptimizerSpec | None, average: Averaging | None) -> TrainState: ...

    @abstractmethod
    def _train_step(self, loss_fn: LossFn, options: StepOptions) -> RunStep: ...

    @abstractmethod
    def _checkpoint_writer(self) -> "checkpoint.Writer":
        """What writes native checkpoints in the background."""

    @abstractmethod
    def _read_checkpoint(self, state: Any, folder: Path, step: int) -> None:
        """Loads what the writer wrote of a state of the same structure."""

    @abstractmethod
    def _build_model(self, config: "ModelConfig", weights: Mapping[str, np.ndarray]) -> Any:
        """The paired model of `config`, with `weights` (canonical names and layout, float64)."""

    @abstractmethod
    def _config_of(self, model: Any) -> "ModelConfig | None":
        """The config from which `_build_model` makes this very model, untrained; None for a user's own."""

    @abstractmethod
    def _is_native_model(self, model: Any) -> bool: ...

    def _make_model(self, make: Callable[[], Any]) -> Any:
        """What `make` returns, where the engine can with no memory for its parameters yet."""
        return make()
