"""The distance of features against PyTorch in float64, where it has a gradient and where not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from warp_translate.ops.feature_distance import feature_distance

distance = jax.jit(feature_distance)
value_and_gradients = jax.jit(jax.value_and_grad(lambda pair: feature_distance(*pair).sum()))
SHAPES = [(3, 7, 5, 4), (3, 3, 2, 16), (3, 1, 1, 2)]


def _features(rng, shapes=SHAPES):
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def _reference(first, second):
    """Zhang et al. 2018, equation 1, channels first as in the authors' code."""
    total = 0
    for one, other in zip(first, second, strict=True):
        one, other = (each.double().permute(0, 3, 1, 2) for each in (one, other))
        one, other = (each / (each.norm(dim=1, keepdim=True) + 1e-10) for each in (one, other))
        total = total + ((one - other) ** 2).sum(1, keepdim=True).mean((2, 3))[:, 0] / len(first)
    return total


def test_values_and_gradients_match_pytorch(rng):
    first, second = _features(rng), _features(rng)
    weights = rng.normal(size=3).astype(np.float32)
    given = [torch.tensor(each, requires_grad=True) for each in first]
    expected = _reference(given, [torch.tensor(each) for each in second])
    (expected * torch.tensor(weights)).sum().backward()

    got = distance(first, second)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected.detach(), rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda each: (feature_distance(each, second) * weights).sum()))
    gradients = gradient(first)
    for found, tensor in zip(gradients, given, strict=True):
        np.testing.assert_allclose(found, tensor.grad, atol=1e-6 * float(tensor.grad.abs().max()))


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-12, 1e-8])
def test_gradient_is_finite_at_vanishing_features(rng, size):
    first, second = _features(rng), _features(rng)
    first[0][:, :3] *= size
    second[0][:, 2:4] *= size
    first[1] *= size
    pair = (first, second)
    value, gradients = value_and_gradients(pair)
    assert np.isfinite(value)
    assert all(np.isfinite(each).all() for each in jax.tree.leaves(gradients))
    # The other features still have a gradient.
    assert np.abs(gradients[0][0][:, 5:]).max() > 1e-3


def test_zero_vectors(rng):
    (some,) = _features(rng, [(2, 4, 4, 8)])
    zeros = np.zeros_like(some)
    np.testing.assert_allclose(distance([some], [zeros]), [1, 1], rtol=1e-6)
    np.testing.assert_array_equal(distance([zeros], [zeros]), [0, 0])
    _, ((gradient,), _) = value_and_gradients(([zeros], [some]))
    np.testing.assert_array_equal(gradient, zeros)


def test_bfloat16_is_computed_in_float32(rng):
    first, second = ([jnp.asarray(a, jnp.bfloat16) for a in _features(rng)] for _ in range(2))
    wide = [[a.astype(jnp.float32) for a in each] for each in (first, second)]
    got = distance(first, second)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, distance(*wide))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([], [], r"the same layers twice, got \[\] and \[\]"),
        ([(1, 2, 2, 3)], [(1, 2, 2, 4)], r"twice, got \[\(1, 2, 2, 3\)\] and \[\(1, 2, 2, 4\)\]"),
        ([(1, 2, 2, 3)], [(1, 2, 2, 3)] * 2, "the same layers twice"),
        ([(2, 2, 3)], [(2, 2, 3)], r"maps \[B, h, w, C\] with pixels, got \[\(2, 2, 3\)\]"),
        ([(1, 0, 2, 3)], [(1, 0, 2, 3)], "with pixels"),
    ],
)
def test_error_names_wrong_layers(first, second, message):
    given = [[np.zeros(shape, np.float32) for shape in each] for each in (first, second)]
    with pytest.raises(ValueError, match=f"feature_distance takes .*{message}"):
        feature_distance(*given)
