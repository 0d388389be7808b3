"""The torch engine of crosstrain: nn.Module, native optimizers, DDP. Imports core, never jax."""

from crosstrain_torch.accelerator import TorchAccelerator
from crosstrain_torch.ops import TorchOps
from crosstrain_torch.state import TorchState

__all__ = ["TorchAccelerator", "TorchOps", "TorchState"]
