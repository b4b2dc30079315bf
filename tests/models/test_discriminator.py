import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.models.random_params import random_variables
from tests.ops.reference import noise, numpy_box
from warp_translate.models import Discriminator

tiny = functools.partial(Discriminator, width=4, layers=1, scales=1, spectral_norm=True)


@functools.cache
def compiled(discriminator, update_stats=False):
    return jax.jit(
        lambda variables, *images: discriminator.apply(
            variables, *images, update_stats=update_stats, mutable=["spectral"]
        )
    )


@functools.cache
def fresh(discriminator, channels=3):
    side = discriminator.minimum_size
    return random_variables(discriminator, (1, side, side, channels))


def judge(discriminator, variables, *images):
    return compiled(discriminator)(variables, *images)[0]


def iterated(discriminator, variables, images, steps):
    """The variables after steps of the power iteration."""
    step = compiled(discriminator, update_stats=True)
    for _ in range(steps):
        variables = {**variables, **step(variables, images)[1]}
    return variables


def largest_singular_value(kernel):
    kernel = np.asarray(kernel, np.float64)
    return np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)[0]


@pytest.mark.parametrize(("layers", "patch"), [(1, 16), (3, 70)])
def test_receptive_field_has_the_published_size(rng, layers, patch):
    discriminator = tiny(layers=layers)
    image = noise(rng, 1, 128, 128, 3)

    @jax.jit
    def gradient(image):
        def central(image):
            logits = discriminator.apply(variables, image).logits[0]
            return logits[0, logits.shape[1] // 2, logits.shape[2] // 2, 0]

        return jax.grad(central)(image)

    variables = fresh(discriminator)
    seen = np.abs(gradient(image)).max((0, 3)) > 0
    for axis in (0, 1):
        touched = np.flatnonzero(seen.any(axis))
        assert touched[-1] - touched[0] + 1 == patch


def torch_discriminator(params, images, layers, *, normed=True):
    """The network in torch, with kernels normalized by numpy's SVD, in float64."""
    x, features = torch.tensor(np.asarray(images, np.float64)).permute(0, 3, 1, 2), []
    for index in range(layers + 2):
        kernel = np.asarray(params[f"Conv_{index}"]["kernel"], np.float64)
        scale = largest_singular_value(kernel) if normed else 1.0
        kernel = torch.tensor(kernel / scale).permute(3, 2, 0, 1)
        bias = torch.tensor(np.asarray(params[f"Conv_{index}"]["bias"], np.float64))
        x = functional.conv2d(x, kernel, bias, stride=2 if index < layers else 1, padding=1)
        if index < layers + 1:
            x = functional.leaky_relu(x, 0.2)
            features.append(x.permute(0, 2, 3, 1).numpy())
    return x.permute(0, 2, 3, 1).numpy(), features


def test_equals_torch_with_normalized_kernels(rng):
    discriminator = tiny(layers=2)
    images = noise(rng, 2, 24, 32, 3)
    variables = iterated(discriminator, fresh(discriminator), images, 200)
    judged = judge(discriminator, variables, images)
    logits, features = torch_discriminator(variables["params"]["scale_0"], images, 2)
    np.testing.assert_allclose(judged.logits[0], logits, rtol=0, atol=1e-4)
    assert logits.std() > 0.02
    assert len(judged.features[0]) == len(features) == 3
    for ours, theirs in zip(judged.features[0], features, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_without_spectral_norm_equals_torch_and_has_no_statistics(rng):
    discriminator = tiny(layers=2, spectral_norm=False)
    images = noise(rng, 2, 24, 32, 3)
    variables = fresh(discriminator)
    assert set(variables) == {"params"}
    judged, changed = compiled(discriminator, update_stats=True)(variables, images)
    assert not changed
    logits, features = torch_discriminator(variables["params"]["scale_0"], images, 2, normed=False)
    scale = np.abs(logits).max()
    np.testing.assert_allclose(judged.logits[0], logits, rtol=0, atol=1e-5 * scale)
    assert logits.std() > 0.02
    for ours, theirs in zip(judged.features[0], features, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_spectral_norm_keeps_names_and_shapes_of_the_parameters():
    """A run can be read with either setting."""
    with_norm, without = (
        jax.tree.map(np.shape, fresh(tiny(layers=2, scales=2, spectral_norm=norm))["params"])
        for norm in (True, False)
    )
    assert with_norm == without


def test_statistics_change_only_with_update_stats(rng):
    discriminator, images = tiny(), noise(rng, 1, 12, 12, 3)
    variables = fresh(discriminator)
    kept = compiled(discriminator)(variables, images)[1]["spectral"]
    moved = compiled(discriminator, update_stats=True)(variables, images)[1]["spectral"]
    jax.tree.map(np.testing.assert_array_equal, kept, variables["spectral"])
    for before, after in zip(
        jax.tree.leaves(variables["spectral"]), jax.tree.leaves(moved), strict=True
    ):
        assert np.abs(before - after).max() > 0
    # Without update_stats the collection need not be mutable.
    jax.eval_shape(discriminator.apply, variables, images)


def test_statistics_are_float32_for_bfloat16_parameters():
    variables = jax.eval_shape(
        tiny(param_dtype=jnp.bfloat16).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3))
    )
    kinds = {
        name: {x.dtype.name for x in jax.tree.leaves(tree)} for name, tree in variables.items()
    }
    assert kinds == {"params": {"bfloat16"}, "spectral": {"float32"}}


def test_each_scale_halves_the_image(rng):
    discriminator = tiny(layers=2, scales=3)
    images = noise(rng, 2, 64, 48, 3)
    variables = fresh(discriminator)
    judged = judge(discriminator, variables, images)
    assert [logits.shape for logits in judged.logits] == [
        (2, 14, 10, 1),
        (2, 6, 4, 1),
        (2, 2, 1, 1),
    ]
    assert [feature.shape for feature in judged.features[1]] == [
        (2, 16, 12, 4),
        (2, 8, 6, 8),
        (2, 7, 5, 16),
    ]
    assert len(judged.features) == 3
    halved = images
    for scale in (1, 2):
        halved = numpy_box(halved, 2).astype(np.float32)
        alone = {kind: {"scale_0": tree[f"scale_{scale}"]} for kind, tree in variables.items()}
        np.testing.assert_allclose(
            judged.logits[scale], judge(tiny(layers=2), alone, halved).logits[0], atol=1e-5
        )


def test_default_is_the_70_pixel_patchgan_at_two_scales():
    shapes = jax.eval_shape(
        Discriminator().init,
        jax.random.key(0),
        jnp.zeros((1, 64, 64, 3)),
        jnp.zeros((1, 64, 64, 3)),
    )["params"]
    kernels = [(4, 4, 6, 64), (4, 4, 64, 128), (4, 4, 128, 256), (4, 4, 256, 512), (4, 4, 512, 1)]
    for scale in ("scale_0", "scale_1"):
        assert [shapes[scale][f"Conv_{i}"]["kernel"].shape for i in range(5)] == kernels
    assert set(shapes) == {"scale_0", "scale_1"}


def test_widths_are_at_most_eight_times_the_first():
    shapes = jax.eval_shape(tiny(layers=5).init, jax.random.key(0), jnp.zeros((1, 128, 128, 3)))[
        "params"
    ]["scale_0"]
    assert [shapes[f"Conv_{i}"]["kernel"].shape[-1] for i in range(7)] == [4, 8, 16, 32, 32, 32, 1]


def test_condition_is_concatenated(rng):
    discriminator = tiny()
    images, condition, other = noise(rng, 3, 1, 12, 12, 3)
    variables = fresh(discriminator, channels=6)
    logits = judge(discriminator, variables, images, condition).logits[0]
    joined = np.concatenate([images, condition], axis=-1)
    np.testing.assert_allclose(logits, judge(discriminator, variables, joined).logits[0], atol=1e-6)
    for changed in [(images, other), (other, condition)]:
        assert np.abs(judge(discriminator, variables, *changed).logits[0] - logits).max() > 1e-3


def test_bfloat16_features_and_float32_logits():
    discriminator = tiny(dtype=jnp.bfloat16)
    judged, variables = jax.eval_shape(
        discriminator.init_with_output, jax.random.key(0), jnp.zeros((1, 8, 8, 3))
    )
    assert [logits.dtype for logits in judged.logits] == [jnp.float32]
    assert {feature.dtype.name for feature in judged.features[0]} == {"bfloat16"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}


@pytest.mark.parametrize(("layers", "scales", "smallest"), [(1, 1, 6), (3, 1, 24), (3, 2, 48)])
def test_minimum_size_has_one_patch(layers, scales, smallest):
    discriminator = tiny(layers=layers, scales=scales)
    judge_shape = functools.partial(
        jax.eval_shape, lambda key, x: discriminator.init_with_output(key, x)[0], jax.random.key(0)
    )
    judged = judge_shape(jax.ShapeDtypeStruct((1, smallest, smallest, 3), jnp.float32))
    assert judged.logits[-1].shape == (1, 1, 1, 1)
    for size in [(smallest - scales, smallest), (smallest, smallest - scales)]:
        with pytest.raises(ValueError, match=f"{size[0]} x {size[1]}.*{smallest} x {smallest}"):
            judge_shape(jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))


def test_error_names_mismatched_sizes():
    with pytest.raises(ValueError, match="13 x 16"):
        jax.eval_shape(tiny(scales=2).init, jax.random.key(0), jnp.zeros((1, 13, 16, 3)))
    with pytest.raises(ValueError, match=r"condition \(1, 9, 9, 3\) .* \(1, 8, 8, 3\)"):
        jax.eval_shape(
            tiny().init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 9, 9, 3))
        )
