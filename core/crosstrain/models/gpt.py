"""The Llama-style decoder's config (Touvron et al. 2023), and its rotation angles."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from crosstrain import init
from crosstrain.errors import ConfigError
from crosstrain.models.experts import Experts
from crosstrain.models.spec import Blocks, ModelConfig, ParamSpec, require_positive, require_rate


@dataclass(frozen=True, kw_only=True, slots=True)
class GPTConfig(ModelConfig):
    """Tokens (B, T) -> logits (B, T, vocab_size). Pre-norm RMSNorm, RoPE, causal attention, SwiGLU, no biases.

    `model(tokens, segments=segments)` keeps attention inside each document of a packed row; see `ct.data.pack`.

    Names and the pairing of RoPE (neighbouring elements 2i and 2i + 1 turn together) are those of Meta's Llama.

    Attributes:
        vocab_size: tokens.
        dim: width of the residual stream.
        n_layers: blocks.
        n_heads: query heads; `dim / n_heads` must be even.
        n_kv_heads: key and value heads (grouped-query attention); None: as many as query heads.
        mlp_dim: width of the SwiGLU; None: 8/3 dim, rounded up to a multiple of 32.
        max_seq_len: longest sequence.
        rope_theta: base of the rotation frequencies.
        norm_eps: added to the mean square in RMSNorm.
        tie_embeddings: the output head is the embedding.
        dropout: rate on the embedding and on both residual branches.
        scan_layers: JAX traces and compiles one block and runs it n_layers times; names and numbers are the same.
            docs/meshes.md says what it saves and costs. torch, which compiles nothing, does as without it.
        experts: a mixture in the place of every SwiGLU, whose experts are SwiGLUs of that width; None: one SwiGLU.
    """

    kind: ClassVar[str] = "gpt"
    vocab_size: int = 256
    dim: int = 256
    n_layers: int = 4
    n_heads: int = 4
    n_kv_heads: int | None = None
    mlp_dim: int | None = None
    max_seq_len: int = 256
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = False
    dropout: float = 0.0
    scan_layers: bool = False
    experts: Experts | None = None

    def __post_init__(self) -> None:
        require_positive(self, "vocab_size", "dim", "n_layers", "n_heads", "max_seq_len", "kv_heads", "hidden_dim")
        require_rate(self, "dropout")
        if self.dim % self.n_heads or self.head_dim % 2:
            raise ConfigError(
                f"dim must be an even multiple of n_heads, got dim={self.dim} and n_heads={self.n_heads}. "
                "RoPE turns pairs of elements within each head."
            )
        if self.n_heads % self.kv_heads:
            raise ConfigError(
                f"n_kv_heads must divide n_heads, got n_kv_heads={self.n_kv_heads} and n_heads={self.n_heads}."
            )
        if self.experts is not None and self.scan_layers:
            raise ConfigError(
                "scan_layers must be False for a model with experts, got scan_layers=True. Their balance leaves every "
                "block beside its output."
            )

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.dim // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def hidden_dim(self) -> int:
        """Width of the SwiGLU."""
        return -(-8 * self.dim // 96) * 32 if self.mlp_dim is None else self.mlp_dim

    def parameters(self) -> dict[str, ParamSpec]:
        """See `ModelConfig`. Normal with std 0.02; projections back into the residual 0.02 / sqrt(2 n_layers)."""
        std = init.normal(0.02)
        norm = ParamSpec(shape=(self.dim,), axes=("embed",), init=init.constant(1.0), role="norm")
        vocabulary = ParamSpec(shape=(self.vocab_size, self.dim), axes=("vocab", "embed"), init=std, role="embedding")
        table = {"tok_embeddings.weight": vocabulary}
        for layer in range(self.n_layers):
            table |= {f"layers.{layer}.{name}": param for name, param in self._block(norm).items()}
        table["norm.weight"] = norm
        if not self.tie_embeddings:
            table["output.weight"] = _matrix((self.vocab_size, self.dim), ("vocab", "embed"), std)
        return table

    def _block(self, norm: ParamSpec) -> dict[str, ParamSpec]:
        std, back = init.normal(0.02), init.normal(0.02 / math.sqrt(2 * self.n_layers))
        kv = self.kv_heads * self.head_dim
        return {
            "attention_norm.weight": norm,
            "attention.wq.weight": _matrix((self.dim, self.dim), ("heads", "embed"), std),
            "attention.wk.weight": _matrix((kv, self.dim), ("kv_heads", "embed"), std),
            "attention.wv.weight": _matrix((kv, self.dim), ("kv_heads", "embed"), std),
            "attention.wo.weight": _matrix((self.dim, self.dim), ("embed", "heads"), back),
            "ffn_norm.weight": norm,
            **self._feed_forward(std, back),
        }

    def _feed_forward(self, std: init.Init, back: init.Init) -> dict[str, ParamSpec]:
        inner, outer = (self.hidden_dim, self.dim), (self.dim, self.hidden_dim)
        if self.experts is None:
            return {
                "feed_forward.w1.weight": _matrix(inner, ("mlp", "embed"), std),
                "feed_forward.w3.weight": _matrix(inner, ("mlp", "embed"), std),
                "feed_forward.w2.weight": _matrix(outer, ("embed", "mlp"), back),
            }
        number = self.experts.number
        return {
            "feed_forward.router.weight": _matrix((number, self.dim), ("router", "embed"), std),
            "feed_forward.experts.w1": _stack((number, *inner), ("experts", "mlp", "embed"), std),
            "feed_forward.experts.w3": _stack((number, *inner), ("experts", "mlp", "embed"), std),
            "feed_forward.experts.w2": _stack((number, *outer), ("experts", "embed", "mlp"), back),
        }

    def units(self) -> dict[str, int]:
        """See `ModelConfig`: attention heads stay whole."""
        return {"heads": self.n_heads, "kv_heads": self.kv_heads}

    def blocks(self) -> Blocks:
        """See `ModelConfig`."""
        return Blocks(prefix="layers", count=self.n_layers)

    def require_mesh(self, mesh: Mapping[str, int]) -> None:
        """See `ModelConfig`."""
        if self.experts is not None:
            self.experts.require_mesh(mesh)

    def rope_angles(self) -> np.ndarray:
        """Angle of pair i at position t: t theta^(-2i / head_dim) (Su et al. 2021).

        Returns:
            float64, shape (max_seq_len, head_dim / 2).
        """
        frequencies = self.rope_theta ** (-np.arange(0, self.head_dim, 2) / self.head_dim)
        return np.outer(np.arange(self.max_seq_len), frequencies)


def _matrix(shape: tuple[int, int], axes: tuple[str, str], start: init.Init) -> ParamSpec:
    return ParamSpec(shape=shape, axes=axes, init=start, role="weight")


def _stack(shape: tuple[int, int, int], axes: tuple[str, str, str], start: init.Init) -> ParamSpec:
    """A matrix for each expert."""
    return ParamSpec(shape=shape, axes=axes, init=start, role="experts")
