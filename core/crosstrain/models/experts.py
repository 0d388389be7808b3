"""`Experts`: a mixture of feed-forward layers, of which every token passes through a few."""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from crosstrain.errors import ConfigError, require_count
from crosstrain.loss import Loss
from crosstrain.sharding.rules import PIPELINE_AXIS, SEQUENCE_AXIS


@dataclass(frozen=True, kw_only=True, slots=True)
class Experts:
    """A mixture of experts in the place of a feed-forward layer (Shazeer et al. 2017).

    p = softmax(router x) over all experts, in float32 or wider. A token goes to the `active` experts of the largest p,
    of equal ones to the first; y = sum_e w_e expert_e(x) over them, with w_e = p_e / (sum of their p) (Mixtral, Jiang
    et al. 2024), and with one active expert w = p (Switch, Fedus et al. 2021, eq. 2): divided by itself it would be 1
    and the router would learn nothing from the loss.

    The balance of a row (a sequence) is number sum_e f_e P_e (Switch, eq. 4-6): f_e is the share of the row's choices
    that are expert e, without gradient, P_e the mean of p_e over the row; it is 1 where all experts are used alike. A
    training step adds `balance` times the sum over layers of the mean over rows to the loss, and reports that sum as
    `expert_balance`; evaluation does neither. Rows that a loader padded do not count. Each micro-batch has its own
    mean, which counts by the weight of its loss.

    Attributes:
        number: experts in every layer.
        active: how many of them a token passes through.
        capacity: None: every token reaches all its experts. Else an expert takes at most
            ceil(capacity active T / number) tokens of a row of T. Choices that come later in the row, of one token the
            lesser ones, are dropped: they add nothing, and the weights of the others stay. It counts by row, so it
            depends neither on the other examples nor on the mesh, and a token only on those before it.
        balance: weight of the balance in the loss.

    Raises:
        ConfigError: a number out of its range.
    """

    number: int
    active: int = 2
    capacity: float | None = None
    balance: float = 0.01

    def __post_init__(self) -> None:
        require_count("experts.number", self.number)
        require_count("experts.active", self.active)
        if self.active > self.number:
            raise ConfigError(
                f"experts.active must be at most experts.number, got active={self.active} and number={self.number}."
            )
        if self.capacity is not None and not 0 < self.capacity < math.inf:
            raise ConfigError(
                f"experts.capacity must be above 0, got capacity={self.capacity}. 1.0 is room for all tokens where "
                "experts are used alike; None drops none."
            )
        if not 0 <= self.balance < math.inf:
            raise ConfigError(f"experts.balance must be at least 0, got balance={self.balance}.")

    def places(self, length: int) -> int:
        """How many tokens of a row of `length` an expert can take. A token chooses it once at most."""
        if self.capacity is None:
            return length
        return min(length, math.ceil(self.capacity * self.active * length / self.number))

    def require_mesh(self, mesh: Mapping[str, int]) -> None:
        """Refuses axes that a model with experts does not go over.

        Raises:
            ConfigError: says which.
        """
        if mesh[PIPELINE_AXIS] > 1:
            raise ConfigError(
                f"pipeline must be 1 for a model with experts, got pipeline={mesh[PIPELINE_AXIS]}. Use expert, fsdp or "
                "data for those devices."
            )
        if self.capacity is not None and mesh[SEQUENCE_AXIS] > 1:
            raise ConfigError(
                f"experts.capacity must be None where sequences are split, got capacity={self.capacity} with "
                f"context={mesh[SEQUENCE_AXIS]}. Use capacity=None, or context=1."
            )


class Balances:
    """What a training step gives a model with experts, for the balance of the rows of every call.

    Args:
        share: weight of the balance in the loss.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self._calls: list[Any] = []

    def add(self, rows: Any) -> None:
        """The balance of each row of one call, summed over layers: a native array (B,)."""
        self._calls.append(rows)

    def total(self, weights: Any | None) -> Loss | None:
        """Over the rows of all calls, by the weights of the batch's examples (B,), if it has any; None of no call."""
        if not self._calls:
            return None
        pairs = [
            (rows.sum(), float(len(rows)))
            if weights is None or len(weights) != len(rows)
            else ((rows * weights).sum(), weights.sum())
            for rows in self._calls
        ]
        return Loss(sum(total for total, _ in pairs), sum(weight for _, weight in pairs))

    def part(self, balance: Loss, loss_weight: Any, weight: Any) -> Any:
        """What these rows add to the sum of the loss: `share` times their mean balance, once the loss is divided.

        Args:
            balance: of the rows here.
            loss_weight: of the loss over all devices.
            weight: of the balance over all devices; 0 where there is padding only.
        """
        return self.share * balance.sum * loss_weight / (weight + (weight == 0))


def reported(model: Any, balances: Balances | None) -> AbstractContextManager[None]:
    """In the block a native model with experts reports to its `balances` when it is called; one without has None."""
    return nullcontext() if balances is None else _reported(model, balances)


@contextmanager
def _reported(model: Any, balances: Balances) -> Iterator[None]:
    model.balances = balances
    try:
        yield
    finally:
        model.balances = None


def balances_of(model: Any) -> Balances | None:
    """For a step of a native model; None for one without experts."""
    experts = getattr(getattr(model, "config", None), "experts", None)
    return Balances(experts.balance) if isinstance(experts, Experts) else None
