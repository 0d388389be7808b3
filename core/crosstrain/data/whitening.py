"""Filters of a convolution that whitens the patches of images: computed once, in NumPy, for either engine."""

import numpy as np

from crosstrain.errors import DataError, require_count

_IMAGES_AT_ONCE = 256


def whitening_filters(images: np.ndarray, size: int = 3, *, eps: float = 1e-2) -> np.ndarray:
    """Filters whose outputs are uncorrelated over the patches of these images, each of variance v / (v + eps).

    With C = V diag(v) V^T the covariance (divided by the number of patches) of all patches of size x size pixels and
    all channels, eigenvalues v from the largest to the smallest, filter i is V_i / sqrt(v_i + eps). The sign is that
    which makes its element of largest magnitude positive. Computed in float64.

    Args:
        images: as the model gets them (normalised), floating, shape (N, H, W, C); a few thousand are enough.
        size: side of the patches, in pixels.
        eps: keeps the filters of nearly constant directions from amplifying noise; in the units of the covariance.

    Returns:
        float64, shape (size size C, C, size, size): the canonical weight of a convolution.

    Raises:
        DataError: other shapes or types, images smaller than a patch, or an eps that is not positive.

    Source: Page 2019, "How to train your ResNet 8: bag of tricks" (size 3, eps 1e-2); `init_whitening_conv` of
    hlb-CIFAR10 (eps 1e-2) and of airbench (size 2, eps 5e-4). Page and airbench do not subtract the mean.
    """
    require_count("size", size, DataError)
    if not eps > 0:
        raise DataError(f"eps must be positive, got eps={eps}.")
    if images.ndim != 4 or images.dtype.kind != "f" or min(images.shape[1:3]) < size or not len(images):
        raise DataError(
            f"images must be floating, of shape (N, H, W, C) with sides of at least {size}, "
            f"got {images.dtype} of shape {images.shape}. Normalise them first."
        )
    values, vectors = np.linalg.eigh(_covariance(images, size))
    filters = (vectors / np.sqrt(values + eps)).T[::-1]
    largest = np.take_along_axis(filters, np.abs(filters).argmax(1, keepdims=True), axis=1)
    return np.ascontiguousarray(filters * np.sign(largest)).reshape(-1, images.shape[-1], size, size)


def _covariance(images: np.ndarray, size: int) -> np.ndarray:
    """Of all patches, float64, (size size C, size size C), in the order channel, line, column."""
    parts = [images[first : first + _IMAGES_AT_ONCE] for first in range(0, len(images), _IMAGES_AT_ONCE)]
    count = len(images) * (images.shape[1] - size + 1) * (images.shape[2] - size + 1)
    mean = sum(_patches(part, size).sum(0) for part in parts) / count
    # Two passes: the mean of products minus the product of means loses digits where the mean is large.
    return sum((centred := _patches(part, size) - mean).T @ centred for part in parts) / count


def _patches(images: np.ndarray, size: int) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(1, 2))
    return windows.reshape(-1, images.shape[-1] * size * size).astype(np.float64)
