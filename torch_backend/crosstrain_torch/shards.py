"""Between the part of a tensor that this process holds and the whole one."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta

from crosstrain.errors import ConfigError
from crosstrain_torch.sharding import Mesh

Tensors = list[torch.Tensor]


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor: the same memory."""
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()


def local_autograd(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor; differentiable."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole tensor. A collective where it is split: every process calls it in the same order."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's part of values that every process has, as it lies in `like`."""
    if not isinstance(like, DTensor):
        return values
    return local(distribute_tensor(values, like.device_mesh, like.placements, src_data_rank=None))


def wrap(values: torch.Tensor, like: torch.Tensor, mean_over: int | None = None) -> torch.Tensor:
    """This process's part as a native tensor that lies as `like`, or as a mean of such over a dimension, of size 1."""
    if not isinstance(like, DTensor):
        return values
    shape, placements = list(like.shape), list(like.placements)
    if mean_over is not None:
        gone = mean_over % like.ndim
        shape[gone] = 1
        placements = [Replicate() if isinstance(place, Shard) and place.dim == gone else place for place in placements]
    outline = torch.empty(shape, dtype=values.dtype, device="meta")
    meta = TensorMeta(outline.shape, outline.stride(), outline.dtype)
    # Not from_local, which moves values to the devices of the mesh: a checkpoint's copies stay on the host.
    return DTensor(values, DTensorSpec(like.device_mesh, tuple(placements), tensor_meta=meta), requires_grad=False)


class Shards:
    """The parameters of a state: whole as modules hold them, and local as optimizers update them.

    Args:
        params: canonical name -> parameter of the module; on the meta device where only other stages hold it.
        mesh: of the processes.
        shared: names of those that every stage of a pipeline holds.

    Attributes:
        here: local parameters but for those that only other stages hold.
        bearers: all that a backward pass can leave a gradient in.
        split: whether any is cut into parts.
        is_spread: whether this process has less than whole gradients of all.
    """

    def __init__(self, params: Mapping[str, nn.Parameter], mesh: Mesh, shared: Collection[str] = ()) -> None:
        self.native = dict(params)
        self.local = {name: _local_parameter(param) for name, param in params.items()}
        self.here = [param for param in self.local.values() if not param.is_meta]
        self._peers, self._stage = mesh.peers, mesh.stage
        pairs = [(param, self.local[name]) for name, param in params.items()]
        self._apart = [(native, mine) for native, mine in pairs if native is not mine]
        self.bearers = [*params.values(), *(mine for _, mine in self._apart)]
        self._owner = {self.local[name]: param for name, param in params.items()}
        processes = 1 if mesh.peers is None else dist.get_world_size(mesh.peers)
        self._copies = {self.local[name]: processes / _parts(param) for name, param in params.items()}
        self._shared = {self.local[name] for name in shared}
        self.split = any(_parts(param) > 1 for param in params.values())
        self.is_spread = self.split or self._stage is not None

    def owner(self, param: torch.Tensor) -> nn.Parameter:
        """The parameter of the module that a local one belongs to."""
        return self._owner[param]

    def norms(self, params: Sequence[torch.Tensor], tensors: Tensors) -> torch.Tensor:
        """L2 norms, shape (n,), of whole tensors that lie as these local parameters do."""
        norms = torch.stack(list(torch._foreach_norm(tensors)))
        if not self.split:
            return norms
        copies = torch.tensor([self._copies[param] for param in params], dtype=torch.float64, device=norms.device)
        squares = norms.double().square() / copies
        dist.all_reduce(squares, group=self._peers)
        return squares.sqrt().to(norms.dtype)

    def total_norm(self, params: Sequence[torch.Tensor], tensors: Tensors) -> torch.Tensor:
        """L2 norm over whole tensors together, those of other stages too, that lie as these local parameters do."""
        # Where all that a stage holds stands still, it has none.
        norms = self.norms(params, tensors) if tensors else self.here[0].detach().new_zeros(0)
        if self._stage is None:
            return torch.linalg.vector_norm(norms)
        of_all = torch.tensor([param in self._shared for param in params], dtype=torch.bool, device=norms.device)
        squares = norms.double().square()
        own = squares.masked_fill(of_all, 0.0).sum()
        dist.all_reduce(own, group=self._stage.group)
        return (own + squares.masked_fill(~of_all, 0.0).sum()).sqrt().to(norms.dtype)

    def mean(self, param: torch.Tensor, values: torch.Tensor, dimension: int) -> torch.Tensor:
        """Mean over a dimension, which stays with size 1, of a whole tensor that lies as this local parameter does."""
        owner = self._owner[param]
        total = values.sum(dimension, keepdim=True)
        if isinstance(owner, DTensor):
            for index, place in enumerate(owner.placements):
                if place.is_shard(dimension % owner.ndim):
                    dist.all_reduce(total, group=owner.device_mesh.get_group(index))
        return total / owner.shape[dimension]

    def drop_gradients(self) -> None:
        """Takes off what a backward pass of the user's own, or a step that failed half way, has left."""
        for param in self.bearers:
            if param.grad is not None:
                param.grad = None

    def collect_gradients(self) -> None:
        """Moves gradients from the module's parameters to the local ones."""
        for native, mine in self._apart:
            grad, native.grad = native.grad, None
            if isinstance(grad, DTensor) and grad.placements != native.placements:
                grad = grad.redistribute(placements=native.placements)
            mine.grad = None if grad is None else local(grad)


class Learning:
    """Which parameters a step updates: all that are trained, but those that it leaves as they are.

    Args:
        shards: the parameters of a state.

    Attributes:
        trainable: canonical name -> local parameter, of all that need a gradient when the state is made.
        now: local parameters that the next step updates here.
        elsewhere: canonical name -> what stands for a parameter that it updates on other stages only.
        held: canonical names of those that it leaves as they are.
    """

    def __init__(self, shards: Shards) -> None:
        self.trainable = {name: param for name, param in shards.local.items() if param.requires_grad}
        self.now: list[torch.Tensor] = []
        self.elsewhere: dict[str, torch.Tensor] = {}
        self.held: tuple[str, ...] = ()
        self._shards = shards
        self._fixed = shards.split or len(shards.here) < len(shards.local)
        self._choose()

    def hold(self, names: tuple[str, ...]) -> None:
        """Leaves these out, and asks for no gradients of theirs; takes up the others again."""
        if names == self.held:
            return
        self.require_asking(self.now)
        self.held = names
        self._choose()
        # FSDP2 takes note of what needs a gradient once, and a pipeline of what it sends back; there gradients are
        # dropped instead.
        for name, param in () if self._fixed else self.trainable.items():
            param.requires_grad_(name not in names)

    def require_asking(self, params: Iterable[torch.Tensor]) -> None:
        """Refuses local parameters that are to learn and were told after `prepare` that they need no gradient.

        Raises:
            ConfigError: names the first.
        """
        lost = [param for param in params if not self._shards.owner(param).requires_grad]
        if lost:
            name = next(name for name, param in self.trainable.items() if param is lost[0])
            raise ConfigError(
                f"a parameter that learns must have requires_grad=True, got requires_grad=False of {name} ({len(lost)} "
                f"in all), set after prepare. Use state.freeze({name!r}), or set it before accelerator.prepare."
            )

    def _choose(self) -> None:
        chosen = {name: param for name, param in self.trainable.items() if name not in self.held}
        self.now = [param for param in chosen.values() if not param.is_meta]
        self.elsewhere = {name: param for name, param in chosen.items() if param.is_meta}

    def drop_others(self, params: Iterable[torch.Tensor]) -> None:
        """Takes the gradients off parameters that the next step does not update."""
        learning = set(self.now)
        for param in params:
            if param not in learning:
                param.grad = None


def _local_parameter(param: nn.Parameter) -> nn.Parameter:
    if not isinstance(param, DTensor):
        return param
    return nn.Parameter(local(param), requires_grad=param.requires_grad)


def _parts(param: torch.Tensor) -> int:
    """Into how many parts a tensor is cut."""
    if not isinstance(param, DTensor):
        return 1
    mesh = param.device_mesh
    return math.prod(mesh.size(index) for index, place in enumerate(param.placements) if place.is_shard())
