"""Mixtures of experts: routing, the exchange of tokens between the processes that hold experts, and their SwiGLUs.

Tokens travel sorted by their experts, as many as there are: nothing is padded, and nothing sent that is not computed.
"""

import torch
import torch.nn.functional as F
from torch import nn

from crosstrain.models.experts import Experts
from crosstrain.models.gpt import GPTConfig
from crosstrain_torch.collectives import all_reduce, all_reduce_autograd, all_to_all, all_to_all_autograd
from crosstrain_torch.precision import wide_dtype
from crosstrain_torch.sharding import ExpertPart, SequencePart
from crosstrain_torch.shards import local_autograd


class FeedForwards(nn.Module):
    """SwiGLUs side by side, (experts, ...) each."""

    stacked_experts = True

    def __init__(self, number: int, config: GPTConfig) -> None:
        super().__init__()
        inner, outer = (config.hidden_dim, config.dim), (config.dim, config.hidden_dim)
        self.w1 = nn.Parameter(torch.empty(number, *inner))
        self.w3 = nn.Parameter(torch.empty(number, *inner))
        self.w2 = nn.Parameter(torch.empty(number, *outer))

    def forward(self, x: torch.Tensor, counts: list[int]) -> torch.Tensor:
        """Tokens (N, dim), sorted by the experts that are here, of which each has its count, -> (N, dim)."""
        weights = zip(*(local_autograd(each).unbind() for each in (self.w1, self.w3, self.w2)), strict=True)
        parts = zip(x.split(counts), weights, strict=True)
        return torch.cat([F.linear(F.silu(F.linear(x, w1)) * F.linear(x, w3), w2) for x, (w1, w3, w2) in parts])


class Router(nn.Linear):
    """A linear layer that computes in the wide type, under autocast too."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., dim) -> (..., experts)."""
        wide = wide_dtype(input)
        with torch.autocast(input.device.type, enabled=False):
            return F.linear(input.to(wide), self.weight.to(wide))


class Mixture(nn.Module):
    """See `Experts`."""

    def __init__(self, experts: Experts, config: GPTConfig) -> None:
        super().__init__()
        self.spec = experts
        self.sequence_part: SequencePart | None = None
        self.expert_part: ExpertPart | None = None
        self.router = Router(config.dim, experts.number, bias=False)
        self.experts = FeedForwards(experts.number, config)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, dim) -> (B, T, dim), and the balance of every row, (B,), in the wide type."""
        probabilities = torch.softmax(self.router(x), dim=-1)
        weights, chosen = choose(probabilities, self.spec)
        # Choices by their place among all of them: which are kept, sorted by their experts.
        kept = _kept(chosen.flatten(1), self.spec, self.spec.places(x.shape[1])).flatten()
        numbers = chosen.flatten()[kept]
        order = kept[numbers.argsort(stable=True)]
        counts = torch.bincount(numbers, minlength=self.spec.number)
        sent = x.flatten(0, 1)[order // self.spec.active]
        y = self._of_experts(sent, counts)
        rows = y.new_zeros(chosen.numel(), y.shape[-1]).index_copy(0, order, y).unflatten(0, chosen.shape)
        y = (rows.to(weights.dtype) * weights[..., None]).sum(-2)
        return y.to(x.dtype), balance_of(probabilities, chosen, self.spec, self.sequence_part)

    def _of_experts(self, sent: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """What the experts make of tokens that are sorted by them, wherever they are."""
        part = self.expert_part
        if part is None:
            return self.experts(sent, counts.tolist())
        counts = counts.unflatten(0, (part.parts, -1))
        # From each process, to each expert that is here.
        theirs = all_to_all(counts, part.group)
        outgoing, incoming = counts.sum(1).tolist(), theirs.sum(1).tolist()
        received = all_to_all_autograd(sent, outgoing, incoming, part.group)
        y = self.experts(_reordered(received, theirs), theirs.sum(0).tolist())
        return all_to_all_autograd(_reordered(y, theirs.T), incoming, outgoing, part.group)


def choose(probabilities: torch.Tensor, experts: Experts) -> tuple[torch.Tensor, torch.Tensor]:
    """(..., number) -> weights and numbers of the active experts, (..., active), the likeliest first."""
    # Of equal ones topk takes any.
    weights, chosen = (each[..., : experts.active] for each in probabilities.sort(dim=-1, descending=True, stable=True))
    return (weights if experts.active == 1 else weights / weights.sum(-1, keepdim=True)), chosen


def balance_of(
    probabilities: torch.Tensor, chosen: torch.Tensor, experts: Experts, part: SequencePart | None = None
) -> torch.Tensor:
    """The balance of every row, (B,), from (B, T, number) and (B, T, active) of this part of the sequences."""
    means, shares = probabilities.mean(1), F.one_hot(chosen, experts.number).to(probabilities.dtype).mean((1, 2))
    if part is not None:
        means = all_reduce_autograd(means, part.group) / part.parts
        shares = all_reduce(shares, part.group) / part.parts
    return experts.number * (shares * means).sum(-1)


def _kept(chosen: torch.Tensor, experts: Experts, room: int) -> torch.Tensor:
    """Of the experts that rows chose, (B, choices), the places of those that have room, counted over all rows."""
    places = torch.arange(chosen.numel(), device=chosen.device)
    if experts.capacity is None:
        return places
    before = F.one_hot(chosen, experts.number).cumsum(1).gather(-1, chosen[..., None])
    return places[before.flatten() <= room]


def _reordered(x: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Rows that come in runs, of the lengths counts[0, 0], counts[0, 1] and so on, in the order of its columns."""
    runs = x.split(counts.flatten().tolist())
    columns = counts.shape[1]
    return torch.cat([run for column in range(columns) for run in runs[column::columns]])
