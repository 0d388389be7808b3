"""The DAWNBench ResNet-9 in float64 NumPy, from its definition. Imports nothing of crosstrain."""

from collections.abc import Mapping

import numpy as np

from parity_tests.reference.layers import batch_norm_evaluation

Array = np.ndarray


def convolve(x: Array, weight: Array) -> Array:
    """(B, H, W, C) with (out, in, k, k), stride 1; (k - 1) // 2 zeros before the image and k // 2 after it."""
    side = weight.shape[-1]
    pads = ((side - 1) // 2, side // 2)
    padded = np.pad(x, ((0, 0), pads, pads, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))
    return np.einsum("nhwcij,fcij->nhwf", windows, weight, optimize=True)


def max_pool(x: Array) -> Array:
    """The largest of each 2 x 2 pixels; a last odd line is left out."""
    batch, height, width, channels = x.shape
    whole = x[:, : height // 2 * 2, : width // 2 * 2]
    return whole.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))


def logits(params: Mapping[str, Array], buffers: Mapping[str, Array], x: Array, *, head_scale: float) -> Array:
    """Page 2018 in evaluation mode, behind the whitening convolution of Page 2019 where there is one."""

    def block(prefix: str, x: Array, *, pools: bool = False) -> Array:
        x = convolve(x, params[f"{prefix}.conv.weight"])
        scale, shift = params[f"{prefix}.norm.weight"], params[f"{prefix}.norm.bias"]
        mean, var = buffers[f"{prefix}.norm.running_mean"], buffers[f"{prefix}.norm.running_var"]
        x = np.maximum(batch_norm_evaluation(x, scale, shift, mean, var, eps=1e-5), 0)
        return max_pool(x) if pools else x

    def residual(prefix: str, x: Array) -> Array:
        return x + block(f"{prefix}.residual.1", block(f"{prefix}.residual.0", x))

    x = convolve(x, params["whiten.weight"]) if "whiten.weight" in params else x
    x = residual("layer1", block("layer1", block("prep", x), pools=True))
    x = residual("layer3", block("layer3", block("layer2", x, pools=True), pools=True))
    return x.max((1, 2)) @ params["head.weight"].T * head_scale
