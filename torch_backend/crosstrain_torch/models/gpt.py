"""The Llama-style decoder in torch."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from crosstrain.errors import ModelError
from crosstrain.models.checks import require_integer, require_length, require_shape
from crosstrain.models.experts import Balances
from crosstrain.models.gpt import GPTConfig
from crosstrain_torch.models.attention import causal_attention, whole_segments
from crosstrain_torch.models.experts import Mixture
from crosstrain_torch.models.layers import Dropout, RMSNorm, project
from crosstrain_torch.precision import wide_dtype
from crosstrain_torch.sharding import SequencePart, Stage


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """RoPE on (B, T, heads, head_dim): neighbouring elements turn together; cos, sin: (..., T, head_dim / 2)."""
    even, odd = x.to(cos.dtype).unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., None, :], sin[..., None, :]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)


def positions_in(segments: torch.Tensor) -> torch.Tensor:
    """Place of each token in its segment, from 0; segments, (B, T), are runs of one number."""
    places = torch.arange(segments.shape[1], device=segments.device)
    starts = torch.where(segments != segments.roll(1, dims=1), places, 0)
    return places - starts.cummax(dim=1).values


class Attention(nn.Module):
    """Causal self-attention with grouped queries, scaled by 1/sqrt(head_dim)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.sequence_part: SequencePart | None = None
        kv_dim = config.kv_heads * config.head_dim
        self.wq = nn.Linear(config.dim, config.dim, bias=False)
        self.wk = nn.Linear(config.dim, kv_dim, bias=False)
        self.wv = nn.Linear(config.dim, kv_dim, bias=False)
        self.wo = nn.Linear(config.dim, config.dim, bias=False)

    def forward(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, segments: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, T, dim) -> (B, T, dim)."""
        # As many heads as are here: tensor parallelism splits them.
        heads = (-1, self.config.head_dim)
        q = rotate(self.wq(x).unflatten(-1, heads), cos, sin)
        k = rotate(self.wk(x).unflatten(-1, heads), cos, sin)
        v = self.wv(x).unflatten(-1, heads)
        return self.wo(causal_attention(q, k, v, segments, self.sequence_part).flatten(-2))


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x) (Shazeer 2020)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.hidden_dim, bias=False)
        self.w3 = nn.Linear(config.dim, config.hidden_dim, bias=False)
        self.w2 = nn.Linear(config.hidden_dim, config.dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, dim) -> (B, T, dim)."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: GPTConfig, prefix: str) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.feed_forward = FeedForward(config) if config.experts is None else Mixture(config.experts, config)
        self.attention_dropout = Dropout(config.dropout, f"{prefix}.attention_dropout")
        self.ffn_dropout = Dropout(config.dropout, f"{prefix}.ffn_dropout")

    def forward(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, segments: torch.Tensor | None = None
    ) -> Any:
        """(B, T, dim) -> (B, T, dim), and of a mixture the balance of every row, (B,)."""
        x = x + self.attention_dropout(self.attention(self.attention_norm(x), cos, sin, segments))
        branch, *balance = _as_tuple(self.feed_forward(self.ffn_norm(x)))
        x = x + self.ffn_dropout(branch)
        return (x, *balance) if balance else x


def _as_tuple(values: Any) -> tuple[Any, ...]:
    return values if isinstance(values, tuple) else (values,)


class GPT(nn.Module):
    """See `GPTConfig`."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.sequence_part: SequencePart | None = None
        self.stage: Stage | None = None
        self.balances: Balances | None = None
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.dropout = Dropout(config.dropout, "dropout")
        self.layers = nn.ModuleList(Block(config, f"layers.{i}") for i in range(config.n_layers))
        self.norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.output = None if config.tie_embeddings else nn.Linear(config.dim, config.vocab_size, bias=False)
        angles = torch.from_numpy(config.rope_angles())
        self.rope_cos: torch.Tensor
        self.rope_sin: torch.Tensor
        self.register_buffer("rope_cos", angles.cos(), persistent=False)
        self.register_buffer("rope_sin", angles.sin(), persistent=False)

    def forward(
        self,
        tokens: torch.Tensor,
        segments: torch.Tensor | None = None,
        *,
        received: tuple[torch.Tensor, ...] | None = None,
    ) -> torch.Tensor:
        """Tokens (B, T), integer -> logits (B, T, vocab_size).

        Args:
            tokens: ids.
            segments: integer, (B, T), such as `pack` gives: a run of one number is a document, whose tokens see no
                other document and count their positions from 0. None: a row is one document.
            received: what a step over a pipeline passes, to the stage that is here: the stream (B, T, dim) that the
                stage before returned, or nothing to the first. All but the last return the stream.

        Raises:
            ModelError: tokens or segments of another type or shape, or longer than `max_seq_len`; a call without a
                step where other processes hold some of the blocks.
        """
        self._check(tokens, segments)
        blocks = self._blocks_here(received)
        part, length = self.sequence_part, tokens.shape[1]
        start = 0 if part is None else length * part.index
        here = slice(start, start + length)
        cos, sin = self.rope_cos[here], self.rope_sin[here]
        if segments is not None:
            segments = whole_segments(segments, part)
            places = positions_in(segments)[:, here]
            cos, sin = self.rope_cos[places], self.rope_sin[places]
        x = received[0] if received else self.dropout(self.tok_embeddings(tokens))
        x = self._run_blocks(blocks, x, cos, sin, segments)
        if self.stage is not None and not self.stage.is_last:
            return x
        x = self.norm(x)
        return project(x, self.tok_embeddings.weight) if self.output is None else self.output(x)

    def _run_blocks(self, blocks: range, x: torch.Tensor, *args: Any) -> torch.Tensor:
        total = x.new_zeros(len(x), dtype=wide_dtype(x))
        for index in blocks:
            x, *balance = _as_tuple(self.layers[index](x, *args))
            total = total + sum(balance)
        if self.balances is not None:
            self.balances.add(total)
        return x

    def stage_shapes(self, tokens: torch.Tensor, segments: torch.Tensor | None = None) -> tuple[torch.Size, torch.Size]:
        """Of the stream between stages, and of the logits.

        Raises:
            ModelError: as `forward`.
        """
        self._check(tokens, segments)
        return torch.Size((*tokens.shape, self.config.dim)), torch.Size((*tokens.shape, self.config.vocab_size))

    def _check(self, tokens: torch.Tensor, segments: torch.Tensor | None) -> None:
        require_integer("tokens", tokens, tokens.is_floating_point())
        require_shape("tokens", tokens, ("B", "T"))
        parts = 1 if self.sequence_part is None else self.sequence_part.parts
        require_length(tokens.shape[1] * parts, self.config.max_seq_len)
        if segments is not None:
            require_integer("segments", segments, segments.is_floating_point())
            require_shape("segments", segments, tuple(tokens.shape))

    def _blocks_here(self, received: tuple[torch.Tensor, ...] | None) -> range:
        blocks = range(len(self.layers))
        if self.stage is None:
            return blocks
        if received is None:
            raise ModelError(
                f"a model on pipeline={self.stage.count} must be called by a step, got a call outside of one on a "
                "process that holds some of the blocks. Use train_step, eval_step or predict_step."
            )
        return self.stage.share(len(blocks))
