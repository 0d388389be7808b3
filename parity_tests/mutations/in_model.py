"""Differences in the forward pass, the loss and the backward pass."""

from dataclasses import replace

import crosstrain as ct

from . import losses
from . import patches as p
from .planting import Mutation, config, forward, loss

M = Mutation

IN_MODEL = (
    # Forward pass.
    M(name="GELU tanh", base="mlp", channel="activation", where="dropouts.0", change=config(activation="gelu_tanh")),
    M(
        name="seed of dropout",
        base="mlp",
        channel="activation",
        where="dropouts.0",
        change=lambda s: replace(s, seed=1, model=lambda a: ct.models.build(*s.model.args, a, seed=0)),
    ),
    M(
        name="transposed square matrix",
        base="mlp",
        channel="activation",
        where="layers.1",
        change=forward("layers.1", p.transposed),
    ),
    M(
        name="dropped bias",
        base="mlp",
        channel="activation",
        where="layers.1",
        change=forward("layers.1", p.without_bias),
    ),
    M(name="flatten order", base="mlp", channel="activation", where="layers.0", change=forward("", p.transposed_image)),
    M(
        name="RoPE on halves",
        base="gpt",
        channel="activation",
        where="layers.0.attention",
        change=forward("layers.0.attention", p.attention(halves=True)),
    ),
    M(
        name="attention scale",
        base="gpt",
        channel="activation",
        where="layers.1.attention",
        change=forward("layers.1.attention", p.attention(scale=1 / 8)),
    ),
    M(
        name="causal mask off by one",
        base="gpt",
        channel="activation",
        where="layers.0.attention",
        change=forward("layers.0.attention", p.attention(shift=1)),
    ),
    M(name="missing final norm", base="gpt", channel="activation", where="norm", change=forward("norm", p.identity)),
    M(
        name="LayerNorm for RMSNorm",
        base="gpt",
        channel="activation",
        where="layers.1.ffn_norm",
        change=forward("layers.1.ffn_norm", p.scale_before_cast),
    ),
    M(
        name="GELU in SwiGLU",
        base="gpt",
        channel="activation",
        where="layers.0.feed_forward",
        change=forward("layers.0.feed_forward", p.gelu_in_swiglu),
    ),
    M(
        name="swapped gates",
        base="gpt",
        channel="activation",
        where="layers.1.feed_forward",
        change=forward("layers.1.feed_forward", p.swapped_gates),
    ),
    M(
        name="missing residual",
        base="gpt",
        channel="activation",
        where="layers.0",
        change=forward("layers.0", p.without_residual),
    ),
    M(
        name="scaled embedding",
        base="gpt",
        channel="activation",
        where="tok_embeddings",
        change=forward("tok_embeddings", p.scaled(4.0)),
    ),
    M(
        name="average for maximum pooling",
        base="resnet9",
        channel="activation",
        where="layer2",
        change=forward("layer2", p.average_pool),
    ),
    M(name="leaky ReLU", base="resnet9", channel="activation", where="prep", change=forward("prep", p.leaky)),
    M(name="head scale", base="resnet9", channel="activation", where="(model)", change=config(head_scale=0.25)),
    M(
        name="BatchNorm in evaluation mode",
        base="resnet9",
        channel="activation",
        where="layer1.norm",
        change=forward("layer1.norm", p.running_statistics),
    ),
    M(
        name="biased running variance",
        base="resnet9",
        channel="activation",
        where="prep.norm.running_var",
        change=forward("prep.norm", p.biased_running_variance),
    ),
    # Loss.
    M(name="label smoothing", base="mlp", channel="loss", where="loss", change=loss(losses.smoothed)),
    M(name="ignored labels count", base="gpt", channel="loss", where="loss", change=loss(losses.counts_ignored)),
    M(name="sum for mean", base="mlp", channel="loss", where="loss", change=loss(losses.summed)),
    # Backward pass.
    M(
        name="gradient four times as large",
        base="mlp",
        channel="backward",
        where="layers.2",
        change=loss(losses.gradient_times(4.0)),
    ),
    M(
        name="detached attention",
        base="gpt",
        channel="backward",
        where="layers.1.attention",
        change=forward("layers.1.attention", p.detached),
    ),
    M(
        name="detached feed-forward input",
        base="gpt",
        channel="backward",
        where="layers.0",
        change=forward("layers.0.feed_forward", p.detached_input),
    ),
    M(
        name="float32 gradient",
        base="resnet9",
        channel="backward",
        where="layer2",
        change=forward("layer2", p.rounded_gradient),
    ),
    M(
        name="gradient of one layer scaled",
        base="mlp",
        channel="backward",
        where="layers.0",
        change=forward("layers.0", p.scaled_gradient(1.01)),
    ),
)
