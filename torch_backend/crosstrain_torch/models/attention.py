"""Causal attention: on whole sequences, and over the processes that hold parts of them.

Each process keeps its queries and gathers keys and values up to its own last position, so that it holds the keys of a
whole sequence but T x T / parts scores. The result is exact.
"""

import torch
import torch.nn.functional as F

from crosstrain_torch.collectives import all_gather_along, all_gather_autograd
from crosstrain_torch.sharding import SequencePart


def causal_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    segments: torch.Tensor | None = None,
    part: SequencePart | None = None,
) -> torch.Tensor:
    """softmax(q k^T / sqrt(head_dim)) v over earlier positions; (B, T, heads, head_dim), fewer heads in k and v.

    Args:
        q: queries.
        k: keys.
        v: values.
        segments: of the whole sequence, (B, T) or (B, T * parts): a position sees only those of its own.
        part: which part of the sequence q, k and v are; None for all of it.

    Raises:
        ModelError: they are less than the part.
    """
    length = seen = q.shape[1]
    if part is not None:
        part.require_whole(length)
        seen = length * (part.index + 1)
        # In one collective; later positions are not seen, and get no gradient from here.
        k, v = all_gather_autograd(torch.cat([k, v], dim=-1), 1, part.group)[:, :seen].chunk(2, dim=-1)
    mask = None
    if segments is not None or seen > length:
        mask = torch.ones(length, seen, dtype=torch.bool, device=q.device).tril(seen - length)
    if segments is not None and mask is not None:
        mask = mask & (segments[:, None, seen - length : seen, None] == segments[:, None, None, :seen])
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=mask,
        is_causal=mask is None,
        enable_gqa=k.shape[2] != q.shape[2],
    )
    return out.transpose(1, 2)


def whole_segments(segments: torch.Tensor, part: SequencePart | None) -> torch.Tensor:
    """(B, T) of this part of a sequence -> (B, T * parts)."""
    return segments if part is None else all_gather_along(segments, 1, part.group)
