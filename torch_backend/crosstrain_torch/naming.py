"""Canonical names of a torch model: torch's own, so there is little to do."""

from torch import Tensor, nn

_LEFT_OUT = ("num_batches_tracked",)


def parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Canonical name -> parameter; a tied parameter has one name, its first."""
    return dict(model.named_parameters())


def buffers(model: nn.Module) -> dict[str, Tensor]:
    """Canonical name -> buffer that belongs to the model's state; counters that nothing reads are left out."""
    persistent = model.state_dict(keep_vars=True)
    return {
        name: buffer for name, buffer in model.named_buffers() if name in persistent and not name.endswith(_LEFT_OUT)
    }
