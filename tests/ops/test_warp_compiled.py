"""Properties of the warp's compiled CPU program; losing one costs a factor of two to ten.

experiments/benchmarks/warp_cpu.py measures the times.
"""

import functools
import re

import jax
import jax.numpy as jnp
import pytest

from warp_translate.models import Generator, translate
from warp_translate.ops import bilinear_warp, warp_and_fuse, warp_gpu, warp_pixels

SIDE = 512
IMAGE_BYTES = SIDE * SIDE * 3 * 4


def arrays(side=SIDE):
    return [jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32) for channels in (3, 2, 3)]


def field_gradient(image, displacement, cotangent):
    return jax.vjp(lambda d: bilinear_warp(image, d), displacement)[1](cotangent)[0]


def image_gradient(image, displacement, cotangent):
    return jax.vjp(lambda x: bilinear_warp(x, displacement), image)[1](cotangent)[0]


def compiled(function, *inputs):
    return jax.jit(function).lower(*inputs).compile()


def computations(program):
    """The bodies of the compiled program by name."""
    bodies, name = {}, None
    for line in program.as_text().splitlines():
        if start := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            name = start.group(1)
            bodies[name] = []
        elif name and line.startswith("  "):
            bodies[name].append(line)
    return {name: "\n".join(lines) for name, lines in bodies.items()}


def counts(body, operation):
    return len(re.findall(rf" {operation}\(", body))


def with_gathers(program):
    return [body for body in computations(program).values() if counts(body, "gather")]


def test_warp_is_one_loop():
    program = compiled(bilinear_warp, *arrays()[:2])
    (body,) = with_gathers(program)
    assert counts(body, "gather") == 4
    entry = computations(program)[list(computations(program))[-1]]
    assert counts(entry, "fusion") == 1
    assert program.memory_analysis().temp_size_in_bytes < IMAGE_BYTES / 10


def test_indices_are_not_tested_for_negativity():
    (body,) = with_gathers(compiled(bilinear_warp, *arrays()[:2]))
    # The offset, for NaN, and both ends of the weight, in x and y. `.at[]` would ask whether the
    # index is below zero, and choose for each of the four between it and it plus the length.
    assert counts(body, "compare") == counts(body, "select") == 6


def test_gradient_of_the_displacement_is_one_loop_without_branches():
    program = compiled(field_gradient, *arrays())
    (body,) = with_gathers(program)
    assert counts(body, "gather") == 12
    assert counts(body, "concatenate") == counts(body, "pad") == counts(body, "reduce") == 0
    assert program.memory_analysis().temp_size_in_bytes < IMAGE_BYTES / 10


def test_gradients_of_mask_and_displacement_keep_no_warped_image():
    image, displacement, pretranslated = arrays()
    mask = jax.ShapeDtypeStruct((1, SIDE, SIDE, 1), jnp.float32)

    def gradients(image, pretranslated, mask, displacement):
        def fused(mask, displacement):
            return warp_and_fuse(image, pretranslated, mask, displacement)[0]

        return jax.vjp(fused, mask, displacement)[1](pretranslated)

    program = compiled(gradients, image, pretranslated, mask, displacement)
    # A loop for each of the two gradients.
    assert sorted(counts(body, "gather") for body in with_gathers(program)) == [4, 12]
    assert program.memory_analysis().temp_size_in_bytes < 0.8 * IMAGE_BYTES  # Places, no image.


def test_backward_pass_keeps_no_neighbors():
    def both(image, displacement, cotangent):
        value, pull = jax.vjp(bilinear_warp, image, displacement)
        return value, pull(cotangent)

    program = compiled(both, *arrays())
    # The bands' shares, and not four neighbors of every pixel.
    assert program.memory_analysis().temp_size_in_bytes < IMAGE_BYTES


def test_gradients_of_a_fusion_keep_no_neighbors():
    def step(image, displacement, target):
        def loss(mask, displacement, pretranslated):
            fused, _ = warp_and_fuse(image, pretranslated, mask, displacement)
            return jnp.sum(jnp.square(fused - target))

        inputs = displacement[..., :1], displacement, target
        return jax.value_and_grad(loss, argnums=(0, 1, 2))(*inputs)

    program = compiled(step, *arrays())
    # Merged with the forward pass, which the barrier forbids, the four neighbors would be read in
    # loops of their own and kept.
    assert sorted(counts(body, "gather") for body in with_gathers(program)) == [4, 4, 12]
    assert program.memory_analysis().temp_size_in_bytes <= IMAGE_BYTES


def test_gradient_of_the_image_needs_memory_for_one_band():
    assert SIDE * SIDE > 8 * warp_pixels.BAND_PIXELS
    program = compiled(image_gradient, *arrays())
    shares = 4 * (3 * 4 + 4) * warp_pixels.BAND_PIXELS  # Numbers and places of four neighbors.
    assert program.memory_analysis().temp_size_in_bytes < 2 * shares
    everything = compiled(warp_gpu.grad_image, arrays()[2], arrays()[1])
    assert everything.memory_analysis().temp_size_in_bytes > 4 * shares


@pytest.mark.parametrize(
    "function",
    [
        image_gradient,
        functools.partial(
            lambda generator, image, *_: (
                translate(
                    generator,
                    jax.tree.map(
                        lambda leaf: jnp.zeros(leaf.shape),
                        jax.eval_shape(
                            lambda: generator.init(
                                jax.random.key(0),
                                jnp.zeros((1, 8, 8, 3)),
                                jnp.zeros((1, 8, 8, 3)),
                                1,
                            )["params"]
                        ),
                    ),
                    image,
                    4,
                    in_bands=True,
                ).output
            ),
            Generator(width=4, blocks=1),
        ),
    ],
    ids=["image gradient", "translation"],
)
def test_bands_are_sliced_outside_of_the_loops_that_gather(function):
    """Otherwise they do not vectorize and take three times as long."""
    bodies = computations(compiled(function, *arrays()))
    loops = [body for body in bodies.values() if counts(body, "floor")]
    assert loops  # They apply the sampling rule.
    for body in loops:
        assert counts(body, "dynamic-slice") == 0
        assert counts(body, "tanh") == 0  # The maps are computed before the warp.


def test_output_reuses_a_donated_buffer():
    image, displacement, spare = arrays()

    def into(image, displacement, spare):
        del spare
        return bilinear_warp(image, displacement)

    program = (
        jax.jit(into, donate_argnums=2, keep_unused=True)
        .lower(image, displacement, spare)
        .compile()
    )
    assert program.memory_analysis().alias_size_in_bytes == IMAGE_BYTES
