import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from warp_translate.ops.augment import NO_AUGMENTATION, Augmentation, augment

ROOT = jax.random.key(0)
EVERYTHING = Augmentation(colour=1.0, translation=0.125, cutout=0.5)


@functools.cache
def compiled(augmentation):
    return jax.jit(lambda keys, images: augment(keys, images, augmentation))


def augmented(images, seed=0, **strengths):
    images = np.asarray(images, np.float32)
    keys = jax.random.split(jax.random.key(seed), len(images))
    return np.asarray(compiled(Augmentation(**strengths))(keys, images))


@pytest.fixture
def images(rng):
    return rng.uniform(-1, 1, (64, 10, 16, 3)).astype(np.float32)


def test_nothing_to_draw_gives_the_very_array():
    images = jnp.ones((2, 4, 4, 3))
    keys = jax.random.split(ROOT, 2)
    assert augment(keys, images, NO_AUGMENTATION) is images
    assert augment(keys, images, Augmentation()) is images
    assert not NO_AUGMENTATION and EVERYTHING


@pytest.mark.parametrize(
    ("field", "value"), [("colour", -0.1), ("translation", 1.5), ("cutout", float("nan"))]
)
def test_a_strength_outside_its_range_is_refused(field, value):
    with pytest.raises(
        ValueError, match=rf"adversary\.{field} is \S+; it must be a number from 0 to"
    ):
        Augmentation(**{field: value})


def test_a_key_draws_the_same_for_every_image_and_another_key_another(images):
    """Two images under one key stay matched; that is what a condition needs."""
    same = np.broadcast_to(images[:1], images.shape)
    keys = jax.random.split(ROOT, len(images))
    apply = compiled(EVERYTHING)
    changed = np.asarray(apply(keys, same))
    assert len(np.unique(changed.reshape(len(changed), -1), axis=0)) == len(changed)
    repeated = np.asarray(apply(jnp.repeat(keys[:1], len(images)), same))
    assert (repeated == repeated[:1]).all()

    # Colours aside, which follow the image's own mean, what is cut and moved is the same.
    geometry = compiled(Augmentation(translation=0.25, cutout=0.5))
    one, other = (np.asarray(geometry(keys, x)) for x in (images + 3, images[::-1] + 5))
    np.testing.assert_array_equal(one == 0, other == 0)
    assert (one == 0).any() and not (one == 0).all()


def test_examples_do_not_influence_each_other(images):
    keys = jax.random.split(ROOT, len(images))
    together = compiled(EVERYTHING)(keys, images)
    other = images.copy()
    other[1:] = 0.5
    np.testing.assert_array_equal(compiled(EVERYTHING)(keys, other)[0], together[0])
    order = np.random.default_rng(1).permutation(len(images))
    np.testing.assert_array_equal(compiled(EVERYTHING)(keys[order], images[order]), together[order])


def fit(columns, target):
    """Least squares of the target by the columns, and the largest misfit."""
    matrix = np.stack([column.ravel() for column in columns], axis=1)
    coefficients, *_ = np.linalg.lstsq(matrix, target.ravel(), rcond=None)
    return coefficients, np.abs(matrix @ coefficients - target.ravel()).max()


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_colour_changes_brightness_saturation_and_contrast_within_their_bounds(images, strength):
    """The result is a linear blend of image, its grey, its mean and white, so that a fit in NumPy
    recovers what was drawn; the blend is then written out with it in the paper's order."""
    changed = augmented(images, colour=strength).astype(np.float64)
    drawn = []
    for image, result in zip(images.astype(np.float64), changed, strict=True):
        grey = np.broadcast_to(image.mean(-1, keepdims=True), image.shape)
        white = np.ones_like(image)
        (colour, neutral, constant), misfit = fit([image, grey, white], result)
        assert misfit < 1e-5
        contrast = colour + neutral
        saturation = colour / contrast
        brightness = constant - (1 - contrast) * image.mean()
        brighter = image + brightness
        saturated = brighter.mean(-1, keepdims=True) * (1 - saturation) + saturation * brighter
        expected = brighter.mean() + contrast * (saturated - brighter.mean())
        np.testing.assert_allclose(result, expected, atol=1e-5)
        drawn.append((brightness / 0.5, saturation - 1, (contrast - 1) / 0.5))
    drawn = np.abs(np.array(drawn)) / strength
    assert drawn.max() <= 1 + 1e-4
    # Uniform up to the bound, and the three independent.
    assert (drawn.max(0) > 0.85).all() and (np.abs(drawn.mean(0) - 0.5) < 0.15).all()
    assert (np.abs(np.corrcoef(drawn.T))[np.triu_indices(3, 1)] < 0.45).all()


def shifted(image, down, right):
    """In plain NumPy: moved, and grey where nothing is."""
    height, width, _ = image.shape
    result = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                result[y, x] = image[y - down, x - right]
    return result


def test_translation_moves_by_whole_pixels_within_its_bounds(images):
    reach = {"down": 2, "right": 4}  # Of 10 x 16, rounded to even.
    found = []
    for image, result in zip(images, augmented(images, translation=0.25), strict=True):
        shifts = [
            (down, right)
            for down in range(-9, 10)
            for right in range(-15, 16)
            if (shifted(image, down, right) == result).all()
        ]
        assert len(shifts) == 1
        found += shifts
    down, right = np.array(found).T
    assert (down.min(), down.max()) == (-reach["down"], reach["down"])
    assert (right.min(), right.max()) == (-reach["right"], reach["right"])
    assert len(set(found)) > 20


def test_cutout_paints_one_rectangle_grey_anywhere_and_nothing_else(images):
    height, width = 5, 8  # Half of 10 x 16.
    corners = set()
    for image, result in zip(images, augmented(images, cutout=0.5), strict=True):
        hole = (result == 0).all(-1)
        np.testing.assert_array_equal(result[~hole], image[~hole])
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        # Whole, unless it lies over the border; its centre is always inside.
        for found, side, total in ((rows, height, 10), (columns, width, 16)):
            touches = found[0] == 0 or found[-1] == total - 1
            assert len(found) == side or (touches and side // 2 <= len(found) < side)
        corners.add((rows[0], columns[0], rows[-1], columns[-1]))
    assert len(corners) > 30
    assert any(top == 0 for top, *_ in corners) and any(bottom == 9 for *_, bottom, _ in corners)


def test_the_gradient_passes_everywhere_but_where_the_image_is_cut(images):
    images = images[:8] + 3  # Nothing is grey by itself.
    keys = jax.random.split(ROOT, len(images))
    weights = np.random.default_rng(1).normal(size=images.shape).astype(np.float32)
    cutout = Augmentation(cutout=0.5)

    @jax.jit
    def slope(images):
        return jax.grad(lambda x: (augment(keys, x, cutout) * weights).sum())(images)

    kept = np.asarray(compiled(cutout)(keys, images)) != 0
    assert kept.any() and not kept.all()
    np.testing.assert_array_equal(slope(images), np.where(kept, weights, 0))


def test_the_gradient_of_everything_together_is_that_of_finite_differences(images):
    """Augmentation is affine in the image, so a difference is exact but for rounding."""
    images = images[:4]
    keys = jax.random.split(ROOT, len(images))
    rng = np.random.default_rng(1)
    weights, direction = rng.normal(size=(2, *images.shape)).astype(np.float32)

    @jax.jit
    def value_and_slope(images):
        def weighted(images):
            return (augment(keys, images, EVERYTHING) * weights).sum()

        return jax.value_and_grad(weighted)(images)

    before, slope = value_and_slope(images)
    after, _ = value_and_slope(images + direction)
    assert abs(after - before) > 1
    np.testing.assert_allclose(after - before, (slope * direction).sum(), rtol=1e-3)


def test_the_type_stays():
    keys = jax.random.split(ROOT, 2)
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.bfloat16)
    out = jax.eval_shape(lambda x: augment(keys, x, EVERYTHING), images)
    assert out.dtype == jnp.bfloat16 and out.shape == images.shape
