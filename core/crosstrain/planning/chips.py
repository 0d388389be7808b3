"""What a plan is held against: accelerator chips, and how many of them a topology has."""

import math
import re
from dataclasses import dataclass

from crosstrain.errors import ConfigError

GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class Chip:
    """One chip.

    Attributes:
        name: of its generation.
        hbm_bytes: memory that a program can use.
        flops_per_s: peak of bfloat16 matrix products.
        hbm_bytes_per_s: to and from its memory.
        link_bytes_per_s: one way over one of its links to other chips.
        dimensions: of the torus that the links make, with two links in each.

    Source: the tables of cloud.google.com/tpu/docs/v4, v5e, v5p and v6e. They give the bandwidth of all links of a
        chip together, in both directions for v5p (1200 GB/s) and as 2400, 1600 and 3200 Gbit/s for the others; here
        it is divided by the number of links. Of the memory a part is the system's; v5e's usable 15.75 GiB and v6e's
        31.25 GiB are what libtpu's compiler allows.
    """

    name: str
    hbm_bytes: float
    flops_per_s: float
    hbm_bytes_per_s: float
    link_bytes_per_s: float
    dimensions: int


CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4",
            hbm_bytes=32 * GIB,
            flops_per_s=275e12,
            hbm_bytes_per_s=1228e9,
            link_bytes_per_s=50e9,
            dimensions=3,
        ),
        Chip(
            name="v5e",
            hbm_bytes=15.75 * GIB,
            flops_per_s=197e12,
            hbm_bytes_per_s=819e9,
            link_bytes_per_s=50e9,
            dimensions=2,
        ),
        Chip(
            name="v5p",
            hbm_bytes=95 * GIB,
            flops_per_s=459e12,
            hbm_bytes_per_s=2765e9,
            link_bytes_per_s=100e9,
            dimensions=3,
        ),
        Chip(
            name="v6e",
            hbm_bytes=31.25 * GIB,
            flops_per_s=918e12,
            hbm_bytes_per_s=1638e9,
            link_bytes_per_s=100e9,
            dimensions=2,
        ),
    )
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Topology:
    """Chips that a plan is made for.

    Attributes:
        chip: None for `cpu:N`, virtual devices of this machine, which prove that a step compiles and how it shards.
        shape: chips along each dimension.
        slices: how many of these there are, with a slower network between them.
    """

    chip: Chip | None
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def chips(self) -> int:
        """How many there are."""
        return math.prod(self.shape) * self.slices

    @property
    def name(self) -> str:
        """As `parse` reads it, but for the slices."""
        return f"{self.chip.name if self.chip else 'cpu'}:{'x'.join(map(str, self.shape))}"

    @classmethod
    def parse(cls, text: str, slices: int = 1) -> "Topology":
        """From `v5e:16x16`, `v5p:4x4x8` or `cpu:8`; `slices` of them.

        Raises:
            ConfigError: an unknown chip, a shape that its torus cannot have, or slices that are not of chips.
        """
        match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", text)
        known = ("cpu", *CHIPS)
        if match is None or match[1] not in known:
            raise ConfigError(
                f"topology must be a chip and a shape, such as v5e:16x16, v5p:4x4x8 or cpu:8, got topology={text!r}. "
                f"Chips: {', '.join(known)}."
            )
        chip, shape = CHIPS.get(match[1]), tuple(int(size) for size in match[2].split("x"))
        dimensions = 1 if chip is None else chip.dimensions
        if len(shape) != dimensions or 0 in shape:
            example = {1: "cpu:8", 2: f"{match[1]}:4x4", 3: f"{match[1]}:2x2x4"}[dimensions]
            raise ConfigError(
                f"topology must have {dimensions} sizes of at least 1 for {match[1]}, got topology={text!r}. "
                f"Use for example {example}."
            )
        if slices < 1 or (slices > 1 and chip is None):
            raise ConfigError(f"slices must be at least 1, and 1 without chips, got slices={slices} of {text}.")
        return cls(chip=chip, shape=shape, slices=slices)
