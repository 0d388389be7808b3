"""The Llama-style decoder in flax nnx."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from crosstrain.models.checks import require_integer, require_length, require_shape
from crosstrain.models.experts import Balances
from crosstrain.models.gpt import GPTConfig
from crosstrain_jax.models.attention import causal_attention
from crosstrain_jax.models.blocks import BlockList
from crosstrain_jax.models.experts import Mixture
from crosstrain_jax.models.layers import Dropout, RMSNorm
from crosstrain_jax.precision import wide_dtype
from crosstrain_jax.sharding import constrain

_STREAM = ("batch", "sequence", "embed")


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """RoPE on (B, T, heads, head_dim): neighbouring elements turn together; cos, sin: (..., T, head_dim / 2)."""
    pairs = x.astype(cos.dtype).reshape(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    cos, sin = cos[..., None, :], sin[..., None, :]
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


def positions_in(segments: jax.Array) -> jax.Array:
    """Place of each token in its segment, from 0; segments, (B, T), are runs of one number."""
    places = jnp.arange(segments.shape[1])
    starts = jnp.where(segments != jnp.roll(segments, 1, axis=1), places, 0)
    return places - jax.lax.cummax(starts, axis=1)


class Attention(nnx.Module):
    """Causal self-attention with grouped queries, scaled by 1/sqrt(head_dim)."""

    def __init__(self, config: GPTConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        kv_dim = config.kv_heads * config.head_dim
        linear = partial(nnx.Linear, use_bias=False, rngs=rngs)
        self.wq = linear(config.dim, config.dim)
        self.wk = linear(config.dim, kv_dim)
        self.wv = linear(config.dim, kv_dim)
        self.wo = linear(config.dim, config.dim)

    def __call__(self, x: jax.Array, cos: jax.Array, sin: jax.Array, segments: jax.Array | None = None) -> jax.Array:
        """(B, T, dim) -> (B, T, dim)."""
        c = self.config
        q = rotate(self.wq(x).reshape(*x.shape[:2], c.n_heads, c.head_dim), cos, sin)
        k = rotate(self.wk(x).reshape(*x.shape[:2], c.kv_heads, c.head_dim), cos, sin)
        v = self.wv(x).reshape(*x.shape[:2], c.kv_heads, c.head_dim)
        return self.wo(causal_attention(q, k, v, segments).reshape(x.shape))


class FeedForward(nnx.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x) (Shazeer 2020)."""

    def __init__(self, config: GPTConfig, *, rngs: nnx.Rngs) -> None:
        linear = partial(nnx.Linear, use_bias=False, rngs=rngs)
        self.w1 = linear(config.dim, config.hidden_dim)
        self.w3 = linear(config.dim, config.hidden_dim)
        self.w2 = linear(config.hidden_dim, config.dim)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, T, dim) -> (B, T, dim)."""
        return self.w2(jax.nn.silu(self.w1(x)) * self.w3(x))


class Block(nnx.Module):
    """Pre-norm attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: GPTConfig, prefix: str, *, rngs: nnx.Rngs) -> None:
        self.attention_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.attention = Attention(config, rngs=rngs)
        self.ffn_norm = RMSNorm(config.dim, eps=config.norm_eps)
        experts = config.experts
        self.feed_forward = FeedForward(config, rngs=rngs) if experts is None else Mixture(experts, config, rngs=rngs)
        self.attention_dropout = Dropout(config.dropout, f"{prefix}.attention_dropout")
        self.ffn_dropout = Dropout(config.dropout, f"{prefix}.ffn_dropout")

    def __call__(self, x: jax.Array, cos: jax.Array, sin: jax.Array, segments: jax.Array | None = None) -> Any:
        """(B, T, dim) -> (B, T, dim), and of a mixture the balance of every row, (B,)."""
        x = x + self.attention_dropout(self.attention(self.attention_norm(x), cos, sin, segments))
        branch, *balance = _as_tuple(self.feed_forward(self.ffn_norm(x)))
        x = constrain(x + self.ffn_dropout(branch), *_STREAM)
        return (x, *balance) if balance else x


def _as_tuple(values: Any) -> tuple[Any, ...]:
    return values if isinstance(values, tuple) else (values,)


class GPT(nnx.Module):
    """See `GPTConfig`."""

    def __init__(self, config: GPTConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.tok_embeddings = nnx.Embed(config.vocab_size, config.dim, rngs=rngs)
        self.dropout = Dropout(config.dropout, "dropout")
        blocks = (Block(config, f"layers.{i}", rngs=rngs) for i in range(config.n_layers))
        self.layers = BlockList(blocks, scan=config.scan_layers)
        self.balances: Balances | None = None
        self.norm = RMSNorm(config.dim, eps=config.norm_eps)
        if not config.tie_embeddings:
            self.output = nnx.Linear(config.dim, config.vocab_size, use_bias=False, rngs=rngs)

    def __call__(self, tokens: jax.Array, segments: jax.Array | None = None) -> jax.Array:
        """Tokens (B, T), integer -> logits (B, T, vocab_size).

        Args:
            tokens: ids.
            segments: integer, (B, T), such as `pack` gives: a run of one number is a document, whose tokens see no
                other document and count their positions from 0. None: a row is one document.

        Raises:
            ModelError: tokens or segments of another type or shape, or longer than `max_seq_len`.
        """
        require_integer("tokens", tokens, jnp.issubdtype(tokens.dtype, jnp.floating))
        require_shape("tokens", tokens, ("B", "T"))
        require_length(tokens.shape[1], self.config.max_seq_len)
        x = self.dropout(constrain(self.tok_embeddings(tokens), *_STREAM))
        angles = self.config.rope_angles()[: tokens.shape[1]]
        cos, sin = jnp.asarray(np.cos(angles), wide_dtype(x)), jnp.asarray(np.sin(angles), wide_dtype(x))
        if segments is not None:
            require_integer("segments", segments, jnp.issubdtype(segments.dtype, jnp.floating))
            require_shape("segments", segments, tokens.shape)
            places = positions_in(segments)
            cos, sin = cos[places], sin[places]
        x = self.norm(self._run_blocks(x, cos, sin, segments))
        logits = self.tok_embeddings.attend(x) if self.config.tie_embeddings else self.output(x)
        return constrain(logits, "batch", "sequence", "vocab")

    def _run_blocks(self, x: jax.Array, *args: Any) -> jax.Array:
        if self.config.experts is None:
            return self.layers.run(x, *args)
        total = jnp.zeros(len(x), wide_dtype(x))
        for block in self.layers:
            x, balance = block(x, *args)
            total = total + balance
        if self.balances is not None:
            self.balances.add(total)
        return x
