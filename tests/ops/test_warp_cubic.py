import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.ops.reference import noise, off_the_grid
from warp_translate.ops import (
    bilinear_warp,
    sampling,
    warp_and_fuse,
    warp_cubic,
    warp_pixels,
    warp_planes,
)

READERS = {
    "views": warp_pixels.read_by_views,
    "index": warp_pixels.read_by_index,
    "planes": warp_planes.read,
}
SHAPES = [((2, 13, 17, 3), 3), ((1, 7, 1, 2), 20), ((1, 1, 6, 1), 2), ((1, 2, 3, 3), 1)]


def of_torch(image, displacement):
    """Bicubic ``grid_sample`` at the displaced positions, ``[B, H, W, C]`` tensors of float64."""
    _, height, width, _ = image.shape
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([xs, ys], -1) + displacement
    # From pixels to [-1, 1]; a side of one pixel reads it from anywhere.
    scale = torch.tensor([2 / max(1, width - 1), 2 / max(1, height - 1)])
    sampled = torch.nn.functional.grid_sample(
        image.permute(0, 3, 1, 2),
        places * scale - 1,
        mode="bicubic",
        padding_mode="border",
        align_corners=True,
    )
    return sampled.permute(0, 2, 3, 1)


def whole(read, image, displacement):
    return warp_cubic.warp(read, image, displacement, sampling.all_rows(image.shape[1]))


@pytest.mark.parametrize(("shape", "amplitude"), SHAPES)
def test_equals_torch(rng, shape, amplitude):
    image, displacement = noise(rng, *shape), off_the_grid(rng, *shape[:3], amplitude)
    expected = of_torch(
        *(torch.tensor(each, dtype=torch.float64) for each in (image, displacement))
    )
    found = jax.jit(lambda *x: {name: whole(read, *x) for name, read in READERS.items()})
    for name, warped in found(image, displacement).items():
        np.testing.assert_allclose(warped, expected, rtol=0, atol=3e-6, err_msg=name)


def test_rows_are_those_of_the_whole_image(rng):
    image, displacement = noise(rng, 2, 12, 9, 3), off_the_grid(rng, 2, 12, 9, 4)
    rows = jnp.arange(5, 12, dtype=jnp.int32)
    some = warp_cubic.warp(READERS["index"], image, displacement[:, 5:], rows)
    np.testing.assert_allclose(some, whole(READERS["index"], image, displacement)[:, 5:], atol=1e-6)


def test_whole_pixels_are_copied_and_nan_reads_the_border(rng):
    image = noise(rng, 1, 5, 6, 3)
    displacement = np.zeros((1, 5, 6, 2), np.float32)
    displacement[..., 0] = 1
    displacement[0, 0, 0] = np.nan
    warped = np.asarray(whole(READERS["index"], image, displacement))
    np.testing.assert_array_equal(warped[:, 1:, :-1], image[:, 1:, 1:])
    np.testing.assert_array_equal(warped[:, 1:, -1], image[:, 1:, -1])
    np.testing.assert_array_equal(warped[0, 0, 0], image[0, 0, 0])


def test_gradients_through_the_fusion_equal_those_of_torch(rng):
    shape = 2, 9, 8, 3
    original, pretranslated = noise(rng, *shape), noise(rng, *shape)
    mask = rng.uniform(0, 1, (*shape[:3], 1)).astype(np.float32)
    displacement = off_the_grid(rng, *shape[:3], 3)
    weights = noise(rng, *shape)

    def loss(*arrays):
        output, warped = warp_and_fuse(*arrays, sampling="cubic")
        return ((output + 0.5 * warped) * weights).sum()

    found = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(
        original, pretranslated, mask, displacement
    )
    tensors = [
        torch.tensor(each, dtype=torch.float64, requires_grad=True)
        for each in (original, pretranslated, mask, displacement)
    ]
    warped = of_torch(tensors[0], tensors[3])
    output = warped + tensors[2] * (tensors[1] - warped)
    ((output + 0.5 * warped) * torch.tensor(weights)).sum().backward()
    for name, gradient, tensor in zip(
        ("original", "pretranslated", "mask", "displacement"), found, tensors, strict=True
    ):
        np.testing.assert_allclose(gradient, tensor.grad, atol=2e-5, err_msg=name)


def test_gradients_at_whole_pixels_are_those_beside_them(rng):
    """There the weights are 0, where a clip would halve the gradient."""
    image, field = noise(rng, 1, 7, 8, 3), jnp.zeros((1, 7, 8, 2))

    def cubic(field):
        return whole(READERS["index"], image, field)

    def slope_of_bilinear(field):
        value, pull = jax.vjp(lambda image: bilinear_warp(image, field), image)
        return pull(jnp.square(value))[0]

    for function in (cubic, slope_of_bilinear):
        gradient = jax.jit(jax.grad(lambda field, f=function: jnp.square(f(field)).sum()))
        inside = np.s_[:, 2:-2, 2:-2]
        at, beside = gradient(field)[inside], gradient(field + 1e-4)[inside]
        np.testing.assert_allclose(at, beside, rtol=0, atol=0.01 * np.abs(beside).max())
