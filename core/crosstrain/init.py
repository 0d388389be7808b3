"""Initialisers: float64 arrays of (seed, canonical name), the same on both engines.

Fans are those of the canonical layout, (out, in, *window): fan_in = in * prod(window), fan_out = out * prod(window).
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from crosstrain import random
from crosstrain.errors import ConfigError

Mode = Literal["fan_in", "fan_out", "fan_avg"]
Distribution = Literal["normal", "uniform", "truncated_normal"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Init:
    """How a parameter starts. Subclasses give `draw`."""

    def __call__(self, seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The initial value of parameter `name` in a run with `seed`; float64, canonical layout.

        Raises:
            ConfigError: a parameter of this shape cannot start like this.
        """
        return self.draw(seed, f"init/{name}", shape)

    def draw(self, seed: int, stream: str, shape: tuple[int, ...]) -> np.ndarray:
        """The values, from the random streams whose names begin with `stream`."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant(Init):
    """The same number everywhere."""

    value: float

    def draw(self, seed: int, stream: str, shape: tuple[int, ...]) -> np.ndarray:
        """See `Init`."""
        return np.full(shape, self.value, dtype=np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Normal(Init):
    """Mean 0, standard deviation `std`."""

    std: float

    def draw(self, seed: int, stream: str, shape: tuple[int, ...]) -> np.ndarray:
        """See `Init`."""
        return random.normal(seed, stream, shape) * self.std


@dataclass(frozen=True, kw_only=True, slots=True)
class TruncatedNormal(Init):
    """A normal of standard deviation `std` given that it lies within +-`cut` std; its own is 0.88 std at cut 2."""

    std: float
    cut: float

    def __post_init__(self) -> None:
        if not self.cut >= 0.5:
            raise ConfigError(f"cut must be at least 0.5, got cut={self.cut}. It is counted in standard deviations.")

    def draw(self, seed: int, stream: str, shape: tuple[int, ...]) -> np.ndarray:
        """See `Init`."""
        return random.truncated_normal(seed, stream, shape, self.cut) * self.std


@dataclass(frozen=True, kw_only=True, slots=True)
class Uniform(Init):
    """In [-bound, bound)."""

    bound: float

    def draw(self, seed: int, stream: str, shape: tuple[int, ...]) -> np.ndarray:
        """See `Init`."""
        return (2.0 * random.uniform(seed, stream, shape) - 1.0) * self.bound


@dataclass(frozen=True, kw_only=True, slots=True)
class VarianceScaling(Init):
    """Mean 0 and standard deviation s = sqrt(scale / fan), where fan_avg is (fan_in + fan_out) / 2.

    `normal` has std s; `uniform` is in [-sqrt(3) s, sqrt(3) s); `truncated_normal` is cut at two standard deviations of
    a normal that is wider by as much as the cut takes off, so that s is right, as in jax.nn.initializers.
    """

    scale: float
    mode: Mode
    distribution: Distribution

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ConfigError(f"scale must be finite and above 0, got scale={self.scale}.")
        for name, options in (("mode", Mode), ("distribution", Distribution)):
            if getattr(self, name) not in get_args(options):
                raise ConfigError(
                    f"{name} must be one of {', '.join(get_args(options))}, got {name}={getattr(self, name)!r}."
                )

    def draw(self, seed: int, stream: str, shape: tuple[int, ...]) -> np.ndarray:
        """See `Init`."""
        std = math.sqrt(self.scale / self._fan(stream, shape))
        match self.distribution:
            case "normal":
                start: Init = Normal(std=std)
            case "uniform":
                start = Uniform(bound=math.sqrt(3.0) * std)
            case _:
                start = TruncatedNormal(std=std / truncated_std(2.0), cut=2.0)
        return start.draw(seed, stream, shape)

    def _fan(self, stream: str, shape: tuple[int, ...]) -> float:
        if len(shape) < 2:
            raise ConfigError(
                f"{stream.removeprefix('init/')} must have at least two dimensions (out, in, ...) to have a fan, "
                f"got shape {shape}. Start biases with constant or fan_in_uniform."
            )
        window = math.prod(shape[2:])
        fan_in, fan_out = shape[1] * window, shape[0] * window
        return {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]


@dataclass(frozen=True, kw_only=True, slots=True)
class Orthogonal(Init):
    """`gain` times a matrix (out, everything else) with orthonormal rows or columns (Saxe et al. 2014).

    Q of the QR decomposition of a normal matrix, transposed where it is wide, with signs that make the diagonal of R
    positive, so that Q is uniform (Mezzadri 2007) and unique. Its last bits are those of the machine's LAPACK.
    """

    gain: float

    def draw(self, seed: int, stream: str, shape: tuple[int, ...]) -> np.ndarray:
        """See `Init`."""
        if len(shape) < 2:
            raise ConfigError(
                f"{stream.removeprefix('init/')} must have at least two dimensions to be orthogonal, got shape {shape}."
            )
        matrix = random.normal(seed, stream, (shape[0], math.prod(shape[1:])))
        wide = matrix.shape[0] < matrix.shape[1]
        q, r = np.linalg.qr(matrix.T if wide else matrix)
        q = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
        return self.gain * np.ascontiguousarray(q.T if wide else q).reshape(shape)


def truncated_std(cut: float) -> float:
    """Standard deviation of a standard normal given that it lies within +-cut: 1 - 2 c phi(c) / (2 Phi(c) - 1)."""
    density = math.exp(-0.5 * cut * cut) / math.sqrt(2.0 * math.pi)
    return math.sqrt(1.0 - 2.0 * cut * density / math.erf(cut / math.sqrt(2.0)))


def constant(value: float) -> Init:
    """The same number everywhere."""
    return Constant(value=value)


def normal(std: float) -> Init:
    """Normal with mean 0 and standard deviation `std`."""
    return Normal(std=std)


def truncated_normal(std: float, *, cut: float = 2.0) -> Init:
    """See `TruncatedNormal`.

    Raises:
        ConfigError: a cut below half a standard deviation.
    """
    return TruncatedNormal(std=std, cut=cut)


def uniform(bound: float) -> Init:
    """Uniform in [-bound, bound)."""
    return Uniform(bound=bound)


def fan_in_uniform(fan_in: int) -> Init:
    """Uniform in +-1/sqrt(fan_in): what torch gives Linear and Conv (kaiming_uniform with a = sqrt(5))."""
    return Uniform(bound=1.0 / math.sqrt(fan_in))


def variance_scaling(scale: float, mode: Mode, distribution: Distribution) -> Init:
    """See `VarianceScaling`.

    Raises:
        ConfigError: a scale that is not above 0, an unknown mode or distribution.
    """
    return VarianceScaling(scale=scale, mode=mode, distribution=distribution)


def kaiming_normal(*, gain: float = math.sqrt(2.0), mode: Mode = "fan_in") -> Init:
    """Normal with std gain / sqrt(fan) (He et al. 2015, eq. 10); sqrt(2) is the gain of ReLU."""
    return variance_scaling(gain**2, mode, "normal")


def kaiming_uniform(*, gain: float = math.sqrt(2.0), mode: Mode = "fan_in") -> Init:
    """Uniform with the standard deviation of `kaiming_normal`."""
    return variance_scaling(gain**2, mode, "uniform")


def xavier_normal(*, gain: float = 1.0) -> Init:
    """Normal with std gain sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio 2010, eq. 12)."""
    return variance_scaling(gain**2, "fan_avg", "normal")


def xavier_uniform(*, gain: float = 1.0) -> Init:
    """Uniform in +-gain sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010, eq. 16)."""
    return variance_scaling(gain**2, "fan_avg", "uniform")


def lecun_normal(*, truncated: bool = False) -> Init:
    """Normal with std 1 / sqrt(fan_in) (LeCun et al. 1998); `truncated` is the default of flax's layers."""
    return variance_scaling(1.0, "fan_in", "truncated_normal" if truncated else "normal")


def lecun_uniform() -> Init:
    """Uniform with the standard deviation of `lecun_normal`."""
    return variance_scaling(1.0, "fan_in", "uniform")


def orthogonal(*, gain: float = 1.0) -> Init:
    """See `Orthogonal`."""
    return Orthogonal(gain=gain)
