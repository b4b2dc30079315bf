"""Kernels and bytes of programs compiled for an H200, which need only JAX's plugin for CUDA."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from experiments import cycle, paired
from launch import plan
from launch.compiled import read_program
from launch.topology import open_topology
from warp_translate.ops import bilinear_warp, warp_and_fuse

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def h200():
    pytest.importorskip("jax_plugins.xla_cuda13")
    return open_topology("h200:1")


def gradients(image, displacement, cotangent):
    return jax.vjp(bilinear_warp, image, displacement)[1](cotangent)


def gradient_of_image(*inputs):
    return gradients(*inputs)[0]


def output(*inputs):
    return warp_and_fuse(*inputs)[0]


UHD, TRAINING = (1, 2160, 3840), (8, 256, 256)


@pytest.mark.parametrize(
    ("function", "channels", "size", "kernels", "bytes_per_pixel"),
    [
        (bilinear_warp, (3, 2), UHD, 3, 56),
        (bilinear_warp, (3, 2), TRAINING, 1, 32),
        (output, (3, 3, 1, 2), UHD, 3, 72),
        (output, (3, 3, 1, 2), TRAINING, 1, 48),
        (gradient_of_image, (3, 2, 3), TRAINING, 4, 88),
        (lambda *x: gradients(*x)[1], (3, 2, 3), TRAINING, 1, 40),
        (gradients, (3, 2, 3), TRAINING, 5, 140),
    ],
    ids=["warp, 4K", "warp", "fuse, 4K", "fuse", "image", "displacement", "both"],
)
def test_the_warp_moves_few_bytes(h200, function, channels, size, kernels, bytes_per_pixel):
    place = SingleDeviceSharding(h200.devices[0])
    inputs = [jax.ShapeDtypeStruct((*size, n), jnp.float32, sharding=place) for n in channels]
    found = read_program(jax.jit(function).lower(*inputs).compile().as_text())
    results = jax.tree.leaves(jax.eval_shape(function, *inputs))
    least = 4 * sum(each.size for each in (*inputs, *results)) / math.prod(size)
    moved = found.bytes / math.prod(size)
    assert len(found.kernels) <= kernels and moved <= bytes_per_pixel + 0.1, found.kernels
    if function is not gradient_of_image:  # Which does not read the image.
        assert moved >= least


def test_a_translation_of_4k(h200):
    config = paired.get_config()
    config.method.factor = 8
    config.generator.dtype = "bfloat16"
    found = plan.plan_translation(config, h200, 2160, 3840)
    assert 100 < found.kernels <= 186 and 1e9 < found.bytes_accessed <= 2.2e9, found.largest
    assert found.parts["image"] == 2160 * 3840 * 3 and found.fits
    # Multiplications per pixel by the table of experiments/benchmarks/README.md.
    assert found.flops == pytest.approx(2 * 4327 * 2160 * 3840, rel=0.02)


@pytest.mark.parametrize(
    ("experiment", "kernels", "gigabytes"), [(paired, 827, 4.5), (cycle, 2700, 20.9)]
)
def test_training_steps(h200, experiment, kernels, gigabytes):
    config = experiment.get_config()
    config.generator.dtype = config.discriminator.dtype = "bfloat16"
    found = plan.make_plan(config, h200, batch_per_chip=8)
    assert kernels / 2 < found.kernels <= kernels, found.largest
    assert gigabytes / 2 < found.bytes_accessed / 1e9 <= gigabytes, found.largest
