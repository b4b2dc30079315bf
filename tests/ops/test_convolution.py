"""The other ways to convolve give the values and derivatives of PyTorch's convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from warp_translate.models import Discriminator
from warp_translate.ops.convolution import patch_convolution, row_convolution


def reference(images, kernel, stride, padding):
    result = torch.nn.functional.conv2d(
        images.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), stride=stride, padding=padding
    )
    return result.permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "padding"),
    [
        ((9, 14), (7, 7), 1, 0),
        ((8, 8), (4, 4), 2, 1),
        ((7, 5), (3, 2), 1, 2),
        ((4, 4), (4, 4), 1, 0),
    ],
)
def test_values_and_gradients_are_those_of_torch(rng, size, kernel_size, stride, padding):
    images = rng.normal(size=(2, *size, 3)).astype(np.float32)
    kernel = rng.normal(size=(*kernel_size, 3, 5)).astype(np.float32)
    torch_images = torch.tensor(images, dtype=torch.float64, requires_grad=True)
    torch_kernel = torch.tensor(kernel, dtype=torch.float64, requires_grad=True)
    expected = reference(torch_images, torch_kernel, stride, padding)
    weights = rng.normal(size=tuple(expected.shape)).astype(np.float32)
    (expected * torch.tensor(weights)).sum().backward()

    ways = [lambda x, k: patch_convolution(x, k, (stride, stride), [(padding, padding)] * 2)]
    if stride == 1 and padding == 0:
        ways.append(row_convolution)
    for way in ways:
        value, pull = jax.vjp(jax.jit(way), images, kernel)
        np.testing.assert_allclose(value, expected.detach(), atol=2e-4)
        to_images, to_kernel = pull(weights)
        np.testing.assert_allclose(to_images, torch_images.grad, atol=2e-4)
        np.testing.assert_allclose(to_kernel, torch_kernel.grad, atol=5e-4)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_elsewhere_than_on_cpus_a_stem_is_one_convolution(platform):
    text = (
        jax.jit(row_convolution)
        .trace(jnp.zeros((1, 16, 16, 3)), jnp.zeros((7, 7, 3, 8)))
        .lower(lowering_platforms=(platform,))
        .as_text()
    )
    assert text.count("stablehlo.convolution") == 1
    assert "stablehlo.dot_general" not in text


def test_on_cpus_a_stem_is_matrix_products():
    text = (
        jax.jit(row_convolution).lower(jnp.zeros((1, 16, 16, 3)), jnp.zeros((7, 7, 3, 8))).as_text()
    )
    assert text.count("stablehlo.dot_general") == 7
    assert "stablehlo.convolution" not in text


def test_a_discriminator_by_patches_has_the_same_second_derivatives(rng):
    images = jnp.asarray(rng.normal(size=(2, 16, 16, 3)), jnp.float32)
    plain = Discriminator(width=4, layers=2, scales=1)
    variables = plain.init(jax.random.key(0), images)

    def penalty(discriminator):
        def slope(params):
            def score(x):
                judged = discriminator.apply({**variables, "params": params}, x)
                return judged.logits[0].sum()

            return jnp.square(jax.grad(score)(images)).sum()

        return jax.jit(jax.grad(slope))(variables["params"])

    expected = penalty(plain)
    found = penalty(plain.clone(by_patches=True))
    assert max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(expected)) > 1e-3
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected
    )


def test_patches_are_not_xla_convolutions():
    text = (
        jax.jit(lambda x, k: patch_convolution(x, k, (2, 2), [(1, 1), (1, 1)]))
        .lower(jnp.zeros((1, 8, 8, 3)), jnp.zeros((4, 4, 3, 2)))
        .as_text()
    )
    assert "stablehlo.convolution" not in text
