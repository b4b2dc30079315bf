import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from warp_translate.models.generator import Generator, encode
from warp_translate.models.projection import PatchProjection


@pytest.fixture(scope="module")
def embedded():
    rng = np.random.default_rng(0)
    features = [
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 4, 6, 3), (2, 2, 3, 5))
    ]
    places = [jnp.array([[5, 0, 23], [7, 7, 1]]), jnp.array([[3], [0]])]
    module = PatchProjection(width=32)
    vectors, variables = jax.jit(module.init_with_output)(jax.random.key(0), features, places)
    return features, places, vectors, variables["params"]


def test_vectors_are_normalized(embedded):
    _, _, vectors, _ = embedded
    assert [vector.shape for vector in vectors] == [(2, 3, 32), (2, 1, 32)]
    for vector in vectors:
        np.testing.assert_allclose(np.linalg.norm(vector, axis=-1), 1.0, rtol=1e-4)


def test_each_layer_has_its_own_perceptron(embedded):
    features, places, vectors, params = embedded
    for layer, (first, second) in enumerate((("Dense_0", "Dense_1"), ("Dense_2", "Dense_3"))):
        for example in range(2):
            for row, place in enumerate(np.asarray(places[layer][example])):
                y, x = divmod(int(place), features[layer].shape[2])
                hidden = features[layer][example, y, x]
                hidden = hidden @ params[first]["kernel"] + params[first]["bias"]
                hidden = np.maximum(hidden, 0) @ params[second]["kernel"] + params[second]["bias"]
                expected = hidden / np.linalg.norm(hidden)
                np.testing.assert_allclose(vectors[layer][example, row], expected, atol=1e-4)


def test_encode_uses_the_encoder_only():
    generator = Generator(width=4, blocks=3)
    reduced = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    original = jnp.zeros((2, 16, 24, 3))
    shapes = jax.eval_shape(lambda: generator.init(jax.random.key(1), reduced, original, 2))
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), shapes["params"]
    )
    features_of = jax.jit(functools.partial(encode, generator))
    features = features_of(params, reduced)
    assert [layer.shape for layer in features] == [
        (2, 8, 12, 3),
        (2, 4, 6, 8),
        (2, 2, 3, 16),
        (2, 2, 3, 16),
        (2, 2, 3, 16),
    ]
    np.testing.assert_array_equal(features[0], reduced)
    assert np.abs(features[3] - features[4]).max() > 1e-3

    def with_ones(block):
        trunk = params["trunk"]
        return {
            **params,
            "trunk": {**trunk, block: jax.tree.map(jnp.ones_like, trunk[block])},
        }

    # Only blocks up to the middle one matter.
    changed = with_ones("ResidualBlock_2")
    for before, after in zip(features, features_of(changed, reduced), strict=True):
        np.testing.assert_array_equal(before, after)
    changed = with_ones("ResidualBlock_1")
    after = features_of(changed, reduced)
    np.testing.assert_array_equal(after[3], features[3])
    assert np.abs(after[4] - features[4]).max() > 1e-3


def test_parameters_exclude_sown_values():
    variables = jax.eval_shape(
        lambda: Generator(width=4, blocks=1).init(
            jax.random.key(0), jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 8, 8, 3)), 2
        )
    )
    assert set(variables) == {"params"}


def test_zero_features_have_a_bounded_gradient():
    module = PatchProjection(width=8)
    features, places = [jnp.zeros((1, 2, 2, 3))], [jnp.zeros((1, 1), jnp.int32)]
    variables = jax.jit(module.init)(jax.random.key(0), features, places)
    gradient = jax.jit(jax.grad(lambda v: module.apply(v, features, places)[0].sum()))(variables)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) < 1e4
