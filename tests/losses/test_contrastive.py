import jax
import numpy as np
import pytest
import torch

from warp_translate.losses.contrastive import patch_contrast


def unit(rng, *shape):
    vectors = rng.normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_equals_cross_entropy_of_each_image(rng):
    queries, keys = unit(rng, 3, 5, 4), unit(rng, 3, 5, 4)
    found = jax.jit(patch_contrast, static_argnums=2)(queries, keys, 0.07)
    for query, key, value in zip(queries, keys, found, strict=True):
        logits = torch.tensor(query).double() @ torch.tensor(key).double().T / 0.07
        expected = torch.nn.functional.cross_entropy(logits, torch.arange(5))
        np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_extreme_values():
    alike = np.full((1, 6, 4), 0.5, np.float32)
    np.testing.assert_allclose(patch_contrast(alike, alike, 0.07), [np.log(6)], rtol=1e-6)
    apart = np.eye(4, dtype=np.float32)[None]
    assert patch_contrast(apart, apart, 0.07)[0] < 1e-5
    assert patch_contrast(apart, apart[:, ::-1], 0.07)[0] > 10


@pytest.mark.parametrize(
    ("queries", "keys", "temperature", "message"),
    [
        ((1, 3, 2), (1, 4, 2), 0.07, r"\[B, N, D\]"),
        ((3, 2), (3, 2), 0.07, r"\[B, N, D\]"),
        ((1, 3, 2), (1, 3, 2), 0.0, "must be positive"),
    ],
)
def test_errors_name_the_mistake(queries, keys, temperature, message):
    with pytest.raises(ValueError, match=message):
        patch_contrast(np.ones(queries, np.float32), np.ones(keys, np.float32), temperature)
