"""The reformulated convolutions against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from warp_translate.models import Discriminator
from warp_translate.ops.convolution import (
    blocked_convolution,
    patch_convolution,
    upsampled_convolution,
    wide_convolution,
)
from warp_translate.ops.winograd import winograd_convolution


def reference(images, kernel, stride, padding):
    result = torch.nn.functional.conv2d(
        images.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), stride=stride, padding=padding
    )
    return result.permute(0, 2, 3, 1)


def value_and_gradients(way, images, kernel, weights):
    @jax.jit
    def both(images, kernel):
        value, pull = jax.vjp(way, images, kernel)
        return value, pull(weights)

    return both(images, kernel)


@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "padding"),
    [
        ((9, 14), (7, 7), 1, 0),
        ((10, 14), (3, 3), 1, 0),
        ((9, 3), (3, 3), 1, 0),
        ((8, 8), (4, 4), 2, 1),
        ((7, 5), (3, 2), 1, 2),
        ((4, 4), (4, 4), 1, 0),
    ],
)
def test_values_and_gradients_match_torch(rng, size, kernel_size, stride, padding):
    images = rng.normal(size=(2, *size, 3)).astype(np.float32)
    kernel = rng.normal(size=(*kernel_size, 3, 5)).astype(np.float32)
    torch_images = torch.tensor(images, dtype=torch.float64, requires_grad=True)
    torch_kernel = torch.tensor(kernel, dtype=torch.float64, requires_grad=True)
    expected = reference(torch_images, torch_kernel, stride, padding)
    weights = rng.normal(size=tuple(expected.shape)).astype(np.float32)
    (expected * torch.tensor(weights)).sum().backward()

    ways = [lambda x, k: patch_convolution(x, k, (stride, stride), [(padding, padding)] * 2)]
    if stride == 1 and padding == 0:
        ways.append(blocked_convolution)
    if stride == 1 and padding == 0 and kernel_size == (3, 3):
        ways.append(winograd_convolution)
    for way in ways:
        value, (to_images, to_kernel) = value_and_gradients(way, images, kernel, weights)
        np.testing.assert_allclose(value, expected.detach(), atol=2e-4)
        np.testing.assert_allclose(to_images, torch_images.grad, atol=2e-4)
        np.testing.assert_allclose(to_kernel, torch_kernel.grad, atol=5e-4)


@pytest.mark.parametrize(
    ("size", "side", "factor"),  # By phases and by upsampling.
    [
        *(((40, 33), 3, factor) for factor in (1, 2, 3, 4)),
        *(((5, 4), 3, factor) for factor in (2, 3)),
        *(((33, 40), 7, factor) for factor in (1, 2, 3)),
        ((5, 4), 5, 4),
    ],
)
def test_upsampled_convolution_matches_torch(rng, size, side, factor):
    images = rng.normal(size=(1, *size, 3)).astype(np.float32)
    kernel = rng.normal(size=(side, side, 3, 5)).astype(np.float32)
    margin = side // 2
    torch_images = torch.tensor(images, dtype=torch.float64, requires_grad=True)
    torch_kernel = torch.tensor(kernel, dtype=torch.float64, requires_grad=True)
    enlarged = torch.nn.functional.interpolate(
        torch_images.permute(0, 3, 1, 2),
        scale_factor=factor,
        mode="bilinear",
        align_corners=False,
    )
    enlarged = torch.nn.functional.pad(enlarged, [margin] * 4, mode="replicate")
    expected = reference(enlarged.permute(0, 2, 3, 1), torch_kernel, 1, 0)
    weights = rng.normal(size=tuple(expected.shape)).astype(np.float32)
    (expected * torch.tensor(weights)).sum().backward()

    def way(images, kernel):
        bordered = jnp.pad(images, ((0, 0), *[(margin, margin)] * 2, (0, 0)), mode="edge")
        return upsampled_convolution(bordered, kernel, factor)

    value, (to_images, to_kernel) = value_and_gradients(way, images, kernel, weights)
    np.testing.assert_allclose(value, expected.detach(), atol=1e-4)
    np.testing.assert_allclose(to_images, torch_images.grad, atol=1e-3)
    np.testing.assert_allclose(to_kernel, torch_kernel.grad, atol=5e-3)


@pytest.mark.parametrize(
    ("way", "elsewhere", "on_cpu", "on_tpu"),
    [
        # Four outputs at a time, from 4 x 4 blocks of 2 x 2 pixels.
        (blocked_convolution, "<7x7x3x8xf32>", "<4x4x12x32xf32>", "<7x7x3x8xf32>"),
        # One output for each phase of the small image.
        (
            lambda x, k: upsampled_convolution(x, k[:3, :3], 2),
            "<3x3x3x8xf32>",
            "<3x3x3x32xf32>",
            "<3x3x3x32xf32>",
        ),
    ],
)
def test_platforms_lower_to_their_own_convolution(way, elsewhere, on_cpu, on_tpu):
    def lowered(platform):
        traced = jax.jit(way).trace(jnp.zeros((1, 40, 40, 3)), jnp.zeros((7, 7, 3, 8)))
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution") == 1
        return next(line for line in text.splitlines() if "stablehlo.convolution" in line)

    assert f"tensor{elsewhere}" in lowered("cuda")
    assert f"tensor{on_tpu}" in lowered("tpu")
    assert f"tensor{on_cpu}" in lowered("cpu")


def test_patch_convolution_keeps_second_derivatives(rng):
    images = jnp.asarray(rng.normal(size=(2, 16, 16, 3)), jnp.float32)
    plain = Discriminator(width=4, layers=2, scales=1, spectral_norm=True)
    shapes = jax.eval_shape(plain.init, jax.random.key(0), images)
    variables = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)

    def penalty(discriminator, params):
        def score(x):
            return discriminator.apply({**variables, "params": params}, x).logits[0].sum()

        return jnp.square(jax.grad(score)(images)).sum()

    both = plain, plain.clone(by_patches=True)
    expected, found = jax.jit(
        lambda params: [jax.grad(lambda p, each=each: penalty(each, p))(params) for each in both]
    )(variables["params"])
    assert max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(expected)) > 1e-3
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected
    )


@pytest.mark.parametrize(
    ("shape", "features", "dtype", "platform", "by_winograd"),
    [
        ((1, 66, 66, 32), 32, "float32", "cpu", True),
        ((4, 34, 34, 32), 32, "float32", "cpu", True),
        ((1, 34, 34, 32), 32, "float32", "cpu", False),
        ((1, 66, 66, 16), 32, "float32", "cpu", False),
        ((1, 66, 66, 32), 32, "bfloat16", "cpu", False),
        ((1, 66, 66, 32), 32, "float32", "cuda", False),
        ((1, 66, 66, 32), 32, "float32", "tpu", False),
    ],
)
def test_winograd_is_used_for_large_float32_images_on_cpus(
    shape, features, dtype, platform, by_winograd
):
    images = jax.ShapeDtypeStruct(shape, dtype)
    kernel = jax.ShapeDtypeStruct((3, 3, shape[-1], features), dtype)
    traced = jax.jit(wide_convolution).trace(images, kernel)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.convolution" not in text) == by_winograd


def test_winograd_is_within_2e_5_of_the_largest_number(rng):
    images = rng.normal(size=(1, 30, 26, 128)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 128, 64)).astype(np.float32)
    exact = reference(torch.tensor(images).double(), torch.tensor(kernel).double(), 1, 0).numpy()
    error = np.abs(np.asarray(jax.jit(winograd_convolution)(images, kernel)) - exact)
    assert error.max() < 2e-5 * np.abs(exact).max()


def test_patches_are_not_xla_convolutions():
    text = (
        jax.jit(lambda x, k: patch_convolution(x, k, (2, 2), [(1, 1), (1, 1)]))
        .lower(jnp.zeros((1, 8, 8, 3)), jnp.zeros((4, 4, 3, 2)))
        .as_text()
    )
    assert "stablehlo.convolution" not in text
