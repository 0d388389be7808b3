"""Filters that whiten: on patches of a known covariance, and on digits."""

import numpy as np
import pytest

import crosstrain as ct

rng = np.random.default_rng(0)


def outputs(images, filters):
    """What a convolution with these filters gives, all positions of all images in rows."""
    side = filters.shape[-1]
    windows = np.lib.stride_tricks.sliding_window_view(images, (side, side), axis=(1, 2))
    return np.einsum("nhwcij,fcij->nhwf", windows, filters).reshape(-1, len(filters))


def coloured(size, count=60):
    """Images whose pixels have, per channel pair, a covariance and a mean that are not trivial."""
    noise = rng.normal(size=(count, 9, 8, 3)) @ rng.normal(size=(3, 3))
    return noise + 0.5 * np.roll(noise, 1, axis=2) + np.array([3.0, -1.0, 0.5])


@pytest.mark.parametrize("size", [1, 2, 3])
def test_outputs_are_uncorrelated_with_variance_1(size):
    images = coloured(size)
    filters = ct.data.whitening_filters(images, size, eps=1e-12)
    assert filters.shape == (3 * size**2, 3, size, size)
    assert filters.dtype == np.float64
    covariance = np.cov(outputs(images, filters).T, bias=True)
    np.testing.assert_allclose(covariance, np.eye(3 * size**2), atol=1e-8)


def test_filters_of_a_known_covariance():
    """Pixels that are independent: variance 4 in one channel, 1/4 in the other, so filters are single pixels."""
    eps = 0.01
    images = rng.choice([-1.0, 1.0], size=(4000, 4, 4, 2)) * np.array([0.5, 2.0]) + 7.0
    filters = ct.data.whitening_filters(images, 1, eps=eps)
    expected = np.array([[0.0, 1 / np.sqrt(4 + eps)], [1 / np.sqrt(0.25 + eps), 0.0]])
    np.testing.assert_allclose(filters[:, :, 0, 0], expected, atol=0.01)


def test_eps_damps_directions_without_variance():
    images = np.repeat(coloured(2)[..., :1], 3, axis=3)  # grey: two of three directions are constant
    filters = ct.data.whitening_filters(images, 1, eps=0.01)
    variances = np.diag(np.cov(outputs(images, filters).T, bias=True))
    grey = images[..., 0].var() * 3
    np.testing.assert_allclose(variances, [grey / (grey + 0.01), 0, 0], atol=1e-10)


def test_the_order_and_the_sign_are_fixed_and_the_type_of_images_is_of_no_account():
    images = ct.data.digits().train["image"][:300]
    filters = ct.data.whitening_filters(images, 2)
    assert filters.shape == (4, 1, 2, 2)
    rows = filters.reshape(4, 4)
    norms = np.linalg.norm(rows, axis=1)
    assert (np.diff(norms) > 0).all(), "the direction of the largest variance has the smallest filter"
    assert (np.take_along_axis(rows, np.abs(rows).argmax(1)[:, None], 1) > 0).all()
    np.testing.assert_allclose(ct.data.whitening_filters(images.astype(np.float64), 2), filters, rtol=1e-12)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.uint8), {}, r"images must be floating, .* got uint8 of shape .* Normalise"),
        (np.zeros((2, 2, 8, 3)), {}, r"sides of at least 3, got float64 of shape \(2, 2, 8, 3\)"),
        (np.zeros((0, 8, 8, 3)), {}, r"of shape \(0, 8, 8, 3\)"),
        (np.zeros((8, 8, 3)), {}, r"of shape \(8, 8, 3\)"),
        (np.zeros((2, 8, 8, 3)), {"eps": 0.0}, "eps must be positive, got eps=0.0"),
        (np.zeros((2, 8, 8, 3)), {"size": 0}, "size must be at least 1, got size=0"),
    ],
)
def test_what_cannot_be_whitened_is_refused(images, options, message):
    with pytest.raises(ct.DataError, match=message):
        ct.data.whitening_filters(images, **options)
