"""The update of an optimizer for a compiler: its numbers come as data, and nothing of it is Python at run time."""

from collections.abc import Sequence

import torch

from crosstrain.optim import OptimizerSpec
from crosstrain_torch.optim.base import Count, Tensors, Traced
from crosstrain_torch.optim.rules import RULES


class TracedUpdate:
    """One update of some of an optimizer's parameters.

    Attributes:
        kept: moments that it changes in place.
    """

    def __init__(
        self, spec: OptimizerSpec, traced: Traced, optimizer: torch.optim.Optimizer, params: Sequence[torch.Tensor]
    ) -> None:
        self._spec, self._traced = spec, traced
        places = {param: index for index, param in enumerate(params)}
        self._parts: list[tuple[dict[str, float | bool], list[int], Tensors, list[dict[str, torch.Tensor]]]] = []
        self._counts: list[Count] = []
        self._scales: list[float] = []
        for group in optimizer.param_groups:
            chosen = [param for param in group["params"] if param in places]
            if chosen:
                # Only what stays as it is: the rest of a group is new in every step, and would be compiled anew.
                constants = {name: group[name] for name in ("weight_decay", "eps", "nesterov") if name in group}
                constants["momentum"] = spec.momentum_value is not None
                kept = [optimizer.state[param] for param in chosen]
                self._parts.append((constants, [places[param] for param in chosen], chosen, kept))
                self._counts.append(group["counts"])
                self._scales.append(group["rate_scale"])
        self.kept = [tensor for part in self._parts for each in part[3] for tensor in each.values()]

    def numbers(self, rate: float, momentum: float, step: int) -> list[float]:
        """What the update after `step` others is given as data."""
        return [
            number
            for scale, count in zip(self._scales, self._counts, strict=True)
            for number in self._traced.numbers(self._spec, rate * scale, momentum, count.after(step) + 1)
        ]

    def __call__(self, grads: Tensors, numbers: torch.Tensor) -> None:
        """Updates parameters and moments in place; gradients, in the order of the parameters, may be overwritten."""
        scalars = list(numbers.unbind())
        for index, (constants, places, params, kept) in enumerate(self._parts):
            own = scalars[index * self._traced.size : (index + 1) * self._traced.size]
            self._traced.update(constants, params, [grads[place] for place in places], kept, own)


def traced(
    spec: OptimizerSpec, optimizer: torch.optim.Optimizer, params: Sequence[torch.Tensor]
) -> TracedUpdate | None:
    """The update of these parameters for a compiler; None where the optimizer has none."""
    rule = RULES[type(spec)].traced
    return None if rule is None else TracedUpdate(spec, rule, optimizer, params)
