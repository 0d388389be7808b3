"""Every norm layer of the torch engine, crosstrain's and torch's own, behind a linear layer that decays."""

from torch import Tensor, nn

from crosstrain_torch import models

CHANNELS = 8


class Norms(nn.Module):
    """Norms over 8 channels with this `eps` and these `groups`; an empty `eps` leaves each layer its default."""

    def __init__(self, eps: dict[str, float], groups: int) -> None:
        super().__init__()
        self.head = nn.Linear(CHANNELS, CHANNELS)
        self.own = nn.ModuleDict(
            {
                "layer": models.LayerNorm(CHANNELS, **eps),
                "group": models.GroupNorm(groups, CHANNELS, **eps),
                "rms": models.RMSNorm(CHANNELS, **eps),
                "batch": models.BatchNorm(CHANNELS, **({"eps": 1e-5} | eps), momentum=0.1),
            }
        )
        self.native = nn.ModuleDict(
            {
                "layer": nn.LayerNorm(CHANNELS, **eps),
                "group": nn.GroupNorm(groups, CHANNELS, **eps),
                "rms": nn.RMSNorm(CHANNELS, **eps),
                "batch": nn.BatchNorm2d(CHANNELS, **eps),
                "instance": nn.InstanceNorm2d(CHANNELS, affine=True, **eps),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)
