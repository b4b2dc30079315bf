"""All implementations of the warp, for all platforms, against the definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.ops.reference import noise, numpy_grad_image, numpy_warp, off_the_grid
from warp_translate.ops import (
    bilinear_warp,
    sampling,
    warp,
    warp_and_fuse,
    warp_gpu,
    warp_kernels,
    warp_pixels,
    warp_planes,
)

SHAPES = [
    ((2, 33, 47, 3), 5.0),
    ((3, 20, 9, 5), 40.0),  # far beyond the border
    ((2, 1, 19, 1), 6.0),
    ((2, 19, 1, 3), 6.0),
    ((2, 1, 1, 3), 6.0),
]
GRAD_DISPLACEMENTS = {
    "cpu": warp_pixels.grad_displacement_cpu,
    "gpu": warp_gpu.grad_displacement,
    "tpu": functools.partial(sampling.grad_displacement, warp_planes.read),
}
GRAD_IMAGES = {
    "cpu": warp_pixels.grad_image_cpu,
    "gpu": warp_gpu.grad_image,
    "fixed point": warp_gpu.grad_image_in_fixed_point,
    "tpu": warp_planes.grad_image,
}


def field(rng, shape, amplitude, strange=True):
    """Noise with a few special values."""
    displacement = amplitude * noise(rng, *shape[:3], 2)
    flat = displacement.reshape(-1)
    numbers = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0, 1.0], np.float32)
    if strange and flat.size > 4 * numbers.size:
        flat[rng.choice(flat.size, numbers.size, replace=False)] = numbers
    return displacement


def samples_of(displacement):
    height = displacement.shape[1]
    return sampling.sample(jnp.asarray(displacement), sampling.all_rows(height), height)


@pytest.mark.parametrize(
    ("shape", "amplitude", "dtype"),
    [
        *((shape, amplitude, "float32") for shape, amplitude in SHAPES),
        (*SHAPES[0], "bfloat16"),
        (*SHAPES[0], "uint8"),
    ],
)
def test_all_platforms_read_the_same_bits(rng, shape, amplitude, dtype):
    image = jnp.asarray(rng.uniform(0, 255, shape), dtype)
    displacement = field(rng, shape, amplitude)
    for by_views, by_index, of_planes in zip(
        *(
            jax.jit(lambda image, d, read=read: read(image, samples_of(d).row))(image, displacement)
            for read in (warp_pixels.read_by_views, warp_pixels.read_by_index, warp_planes.read)
        ),
        strict=True,
    ):
        assert by_views.dtype == by_index.dtype == of_planes.dtype == jnp.float32
        np.testing.assert_array_equal(by_index, by_views)
        np.testing.assert_array_equal(of_planes, by_views)


WARPS = {
    "cpu": functools.partial(sampling.warp, warp_pixels.read_by_views),
    "gpu": warp_gpu.warp,
    "tpu": functools.partial(sampling.warp, warp_planes.read),
}


@pytest.mark.parametrize(
    ("shape", "amplitude", "dtype"),
    [
        *((shape, amplitude, "float32") for shape, amplitude in SHAPES),
        ((1, 8, 9, 12), 5.0, "float32"),
        (*SHAPES[0], "uint8"),
    ],
)
def test_rows_match_those_of_the_definition(rng, shape, amplitude, dtype):
    image = jnp.asarray(rng.uniform(0, 255, shape), dtype)
    displacement, first = field(rng, shape, amplitude), shape[1] // 2
    rows = jnp.arange(first, shape[1], dtype=jnp.int32)
    expected = numpy_warp(np.asarray(image), displacement)[:, first:]
    for name, form in WARPS.items():
        warped = jax.jit(form)(image, displacement[:, first:], rows)
        assert warped.dtype == jnp.float32
        np.testing.assert_allclose(warped, expected, rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("shape", "amplitude"), SHAPES)
def test_gradients_of_the_image_match_the_definition(rng, shape, amplitude):
    cotangent, displacement = noise(rng, *shape), field(rng, shape, amplitude)
    expected = numpy_grad_image(cotangent, displacement)
    all_forms = jax.jit(lambda *x: {name: form(*x) for name, form in GRAD_IMAGES.items()})
    for name, added in all_forms(cotangent, displacement).items():
        # A pixel that many read from sums up many roundings.
        atol = 1e-6 * (1 + np.abs(expected).max())
        np.testing.assert_allclose(added, expected, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("pixels", [1, 500])
def test_bands_of_any_height_add_the_same(rng, monkeypatch, pixels):
    # 1 and 10 rows of 47 pixels, which do not divide 33.
    cotangent, displacement = noise(rng, 1, 33, 47, 3), field(rng, (1, 33, 47), 9.0)
    monkeypatch.setattr(warp_pixels, "BAND_PIXELS", pixels)
    added = jax.jit(lambda *x: warp_pixels.grad_image_cpu(*x))(cotangent, displacement)
    np.testing.assert_allclose(added, numpy_grad_image(cotangent, displacement), rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 12])
def test_gradients_of_the_displacement_match_finite_differences(rng, channels):
    shape = 2, 9, 11, channels
    image, cotangent = noise(rng, *shape), noise(rng, *shape)
    displacement = off_the_grid(rng, *shape[:3], 3)  # Some reach beyond the border.
    exact = displacement.astype(np.float64)
    expected = [
        ((numpy_warp(image, exact + d) - numpy_warp(image, exact - d)) / 2e-4 * cotangent).sum(-1)
        for d in (np.array([1e-4, 0.0]), np.array([0.0, 1e-4]))
    ]
    for name, form in GRAD_DISPLACEMENTS.items():
        found = jax.jit(form)(image, displacement, cotangent)
        np.testing.assert_allclose(found, np.stack(expected, -1), rtol=0, atol=4e-6, err_msg=name)


fixed_point = jax.jit(warp_gpu.grad_image_in_fixed_point)


def test_fixed_point_sum_has_the_same_bits_in_any_order(rng):
    shape = 1, 40, 30, 3
    cotangent = noise(rng, *shape) * 10.0 ** rng.uniform(-3, 0, (1, 40, 30, 1)).astype(np.float32)
    # Quarters of a pixel, whose weights are exact from either side; many read the border.
    displacement = rng.integers(-100, 101, (1, 40, 30, 2)).astype(np.float32) / 4

    def from_either_side(form):
        turned = form(cotangent[:, ::-1, ::-1], -displacement[:, ::-1, ::-1])
        return np.asarray(form(cotangent, displacement)), turned[:, ::-1, ::-1]

    np.testing.assert_array_equal(*from_either_side(fixed_point))
    assert np.any(np.not_equal(*from_either_side(jax.jit(warp_gpu.grad_image))))


def test_fixed_point_sum_is_precise_at_any_scale_of_every_image(rng):
    scales = np.array([0.0, 1e-30, 1e-10, 1.0, 1e10, 1e30], np.float32)
    cotangent = noise(rng, 6, 20, 16, 3) * scales[:, None, None, None]
    displacement = field(rng, (6, 20, 16), 30.0)
    added = fixed_point(cotangent, displacement)
    for got, want in zip(added, numpy_grad_image(cotangent, displacement), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * np.abs(want).max())


def test_fixed_point_sum_does_not_overflow():
    cotangent = np.ones((1, 64, 64, 1), np.float32)
    displacement = np.full((1, 64, 64, 2), -1e9, np.float32)
    added = fixed_point(cotangent, displacement)
    assert added[0, 0, 0, 0] == 64 * 64
    assert np.count_nonzero(added) == 1


def test_fixed_point_sum_of_a_non_finite_cotangent_is_nan(rng):
    cotangent, displacement = noise(rng, 6, 20, 16, 3), field(rng, (6, 20, 16), 2.0)
    for value in (np.nan, np.inf):
        cotangent[0, 3, 4, 1] = value
        added = fixed_point(cotangent, displacement)
        assert np.isnan(added[0]).all()
        assert np.isfinite(added[1:]).all()


def fusion_by_parts(original, pretranslated, mask, displacement, mask_weights):
    """In float64 numpy."""
    warped = numpy_warp(original, displacement)
    weight = mask.astype(np.float64)
    if mask_weights == "pretranslated":
        return weight * pretranslated + (1 - weight) * warped, warped
    return weight * warped + (1 - weight) * pretranslated, warped


def inputs_of_a_fusion(rng, shape=(2, 13, 9, 3)):
    displacement = off_the_grid(rng, *shape[:3], 2)
    mask = rng.uniform(0, 1, (*shape[:3], 1)).astype(np.float32)
    return noise(rng, *shape), noise(rng, *shape), mask, displacement


@pytest.mark.parametrize("mask_weights", ["pretranslated", "warped"])
def test_warp_and_fuse_matches_its_parts(rng, mask_weights):
    inputs = inputs_of_a_fusion(rng)
    found = warp_and_fuse(*inputs, mask_weights=mask_weights)
    for got, want in zip(found, fusion_by_parts(*inputs, mask_weights), strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mask_weights", ["pretranslated", "warped"])
def test_warp_and_fuse_gradients_match_finite_differences(rng, mask_weights):
    inputs = inputs_of_a_fusion(rng, (1, 5, 4, 2))
    weights = [noise(rng, *inputs[0].shape) for _ in range(2)]

    def parts(fusion, *arrays):
        found = fusion(*arrays, mask_weights=mask_weights)
        return [(each * weight).sum() for each, weight in zip(found, weights, strict=True)]

    # Of the output and of the warped image, each used alone and both together.
    uses = {"output": lambda p: p[0], "warped": lambda p: p[1], "both": sum}

    @jax.jit
    def gradients_of(*arrays):
        return {
            name: jax.grad(lambda *x, use=use: use(parts(warp_and_fuse, *x)), (0, 1, 2, 3))(*arrays)
            for name, use in uses.items()
        }

    exact = [each.astype(np.float64) for each in inputs]
    gradients = gradients_of(*inputs)
    for position, moving in enumerate(exact):
        expected = np.empty((2, *moving.shape))
        for index in np.ndindex(moving.shape):
            moved = [[each.copy() for each in exact] for _ in range(2)]
            moved[0][position][index] += 1e-4
            moved[1][position][index] -= 1e-4
            above, below = (parts(fusion_by_parts, *arrays) for arrays in moved)
            expected[:, *index] = np.subtract(above, below) / 2e-4
        for name, use in uses.items():
            np.testing.assert_allclose(
                gradients[name][position], use(expected), rtol=0, atol=1e-5, err_msg=name
            )


def test_warp_and_fuse_keeps_dtypes(rng):
    original, pretranslated, mask, displacement = map(jnp.asarray, inputs_of_a_fusion(rng))
    original, mask = original.astype(jnp.bfloat16), mask.astype(jnp.bfloat16)

    def total(*arrays):
        output, warped = warp_and_fuse(*arrays)
        assert output.dtype == warped.dtype == jnp.bfloat16
        return output.astype(jnp.float32).sum()

    gradients = jax.eval_shape(
        jax.grad(total, (0, 1, 2, 3)), original, pretranslated, mask, displacement
    )
    kinds = [each.dtype for each in gradients]
    assert kinds == [jnp.bfloat16, jnp.float32, jnp.bfloat16, jnp.float32]


@pytest.mark.parametrize(
    ("index", "shape", "dtype", "wrong"),
    [
        (1, (1, 4, 5, 1), "float32", "(1, 4, 5, 1)"),
        (2, (1, 4, 5, 3), "float32", "(1, 4, 5, 3)"),
        (3, (1, 5, 4, 2), "float32", "(1, 5, 4, 2)"),
        (1, (1, 4, 5, 3), "uint8", "pretranslated"),
        (2, (1, 4, 5, 1), "int32", "mask"),
        (0, (1, 4, 5, 3), "uint8", "original"),
    ],
)
def test_warp_and_fuse_error_names_wrong_inputs(index, shape, dtype, wrong):
    arrays = [jnp.zeros((1, 4, 5, channels)) for channels in (3, 3, 1, 2)]
    arrays[index] = jnp.zeros(shape, dtype)
    with pytest.raises(ValueError) as raised:
        warp_and_fuse(*arrays)
    assert wrong in str(raised.value)
    with pytest.raises(ValueError, match="'both'"):
        warp_and_fuse(*[jnp.zeros((1, 4, 5, n)) for n in (3, 3, 1, 2)], mask_weights="both")


@pytest.mark.parametrize(
    ("platform", "argument", "gathers", "scatters"),
    [
        ("tpu", None, 1, 0),
        ("cpu", None, 4, 0),
        ("cuda", None, 2, 0),
        ("tpu", 0, 0, 12),
        ("cpu", 0, 0, 4),
        ("cuda", 0, 0, 1),
        ("tpu", 1, 1, 0),
        ("cpu", 1, 12, 0),
        ("cuda", 1, 2, 0),
    ],
)
def test_each_platform_lowers_only_its_own_form_and_gradient(platform, argument, gathers, scatters):
    image = jax.ShapeDtypeStruct((2, 16, 24, 3), jnp.float32)
    displacement = jax.ShapeDtypeStruct((2, 16, 24, 2), jnp.float32)
    function = bilinear_warp
    if argument is not None:
        function = jax.grad(lambda *inputs: bilinear_warp(*inputs).sum(), argument)
    traced = jax.jit(function).trace(image, displacement)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count('"stablehlo.gather"') == gathers
    assert text.count('"stablehlo.scatter"') == scatters


def test_only_deterministic_gpus_add_in_fixed_point():
    image = jax.ShapeDtypeStruct((2, 16, 24, 3), jnp.float32)
    displacement = jax.ShapeDtypeStruct((2, 16, 24, 2), jnp.float32)

    def scatters(platform, deterministic):
        slope = jax.grad(lambda *inputs: bilinear_warp(*inputs, deterministic=deterministic).sum())
        traced = jax.jit(slope).trace(image, displacement)
        return traced.lower(lowering_platforms=(platform,)).as_text().count('"stablehlo.scatter"')

    assert scatters("cuda", True) == 2  # Shares and counts.
    assert scatters("cuda", False) == 1
    assert scatters("cpu", True) == scatters("cpu", False) == 4
    assert scatters("tpu", True) == scatters("tpu", False) == 12


@pytest.mark.parametrize(
    ("platform", "deterministic"), [("tpu", False), ("cuda", False), ("rocm", True)]
)
def test_other_platforms_have_the_same_values_and_gradients(
    rng, monkeypatch, platform, deterministic
):
    shape = 2, 17, 12, 3
    image, weights = jnp.asarray(noise(rng, *shape)), jnp.asarray(noise(rng, *shape))
    displacement = jnp.asarray(field(rng, shape, 6.0, strange=False))

    def results():
        @jax.jit  # Anew, or the program compiled before the patch would run again.
        def values_and_gradients(image, displacement):
            values, pull = jax.vjp(
                lambda *inputs: bilinear_warp.__wrapped__(*inputs, deterministic=deterministic),
                image,
                displacement,
            )
            return values, *pull(weights)

        return values_and_gradients(image, displacement)

    here = results()
    chosen = []

    def as_if_there(*arguments, default, **forms):
        chosen.append(forms.get(platform, default))
        return chosen[-1](*arguments)

    monkeypatch.setattr(warp.lax, "platform_dependent", as_if_there)
    there = results()
    assert len(chosen) == 3
    for form in chosen:
        read = form.args[0] if isinstance(form, functools.partial) else form
        assert read.__module__.endswith("planes") == (platform == "tpu")
    np.testing.assert_allclose(there[0], here[0], rtol=0, atol=1e-6)
    scale = 1 + np.abs(here[1]).max()  # A pixel that many read from has a large slope.
    np.testing.assert_allclose(there[1], here[1], rtol=0, atol=1e-6 * scale)
    np.testing.assert_allclose(there[2], here[2], rtol=0, atol=2e-6)


def test_only_tpus_with_a_bound_use_kernels():
    def calls(platforms, width):
        image = jax.ShapeDtypeStruct((1, 16, width, 3), jnp.float32)
        displacement = jax.ShapeDtypeStruct((1, 16, width, 2), jnp.float32)

        def value_and_gradients(image, displacement):
            warped, pull = jax.vjp(functools.partial(bilinear_warp, bound=8), image, displacement)
            return warped, pull(warped)

        traced = jax.jit(value_and_gradients).trace(image, displacement)
        texts = [traced.lower(lowering_platforms=(each,)).as_text() for each in platforms]
        return [
            (text.count("@tpu_custom_call"), text.count('"stablehlo.gather"')) for text in texts
        ]

    assert calls(("tpu", "cpu", "cuda"), 128) == [(3, 0), (0, 16), (0, 4)]
    assert calls(("tpu",), 64) == [(0, 2)]  # Too narrow.


def test_kernels_keep_values_and_first_and_second_gradients(rng, monkeypatch):
    shape = 1, 8, 128, 1
    image, weights = jnp.asarray(noise(rng, *shape)), jnp.asarray(noise(rng, *shape))
    pretranslated = jnp.asarray(noise(rng, *shape))
    mask = jnp.asarray(rng.uniform(0, 1, (*shape[:3], 1)).astype(np.float32))
    displacement = jnp.asarray(field(rng, shape, 5.0, strange=False))
    for name in ("warp", "grad_displacement", "grad_image"):
        kernel = getattr(warp_kernels, name)
        monkeypatch.setattr(warp_kernels, name, functools.partial(kernel, interpret=True))
    monkeypatch.setattr(
        warp.lax, "platform_dependent", lambda *arguments, tpu, **forms: tpu(*arguments)
    )
    called = []
    supports = warp_kernels.supports
    monkeypatch.setattr(
        warp_kernels, "supports", lambda *arguments: called.append(1) or supports(*arguments)
    )

    def results(bound):
        def loss(image, mask, displacement):
            # Not jitted, or the program compiled before the patch would run.
            fused = warp_and_fuse.__wrapped__(image, pretranslated, mask, displacement, bound=bound)
            return (fused[0] * weights).sum() + (fused[1] * weights[..., ::-1]).sum()

        def curved(displacement):
            return jnp.square(jax.grad(loss, 2)(image, mask, displacement)).sum()

        everything = jax.value_and_grad(loss, (0, 1, 2))
        return jax.jit(lambda *x: (everything(*x), jax.grad(curved)(x[2])))(
            image, mask, displacement
        )

    without = results(None)
    assert not called
    by_kernels = results(5)
    assert called
    for got, want in zip(jax.tree.leaves(by_kernels), jax.tree.leaves(without), strict=True):
        scale = 1 + np.abs(want).max()
        np.testing.assert_allclose(got, want, rtol=0, atol=3e-6 * scale)


def test_an_axis_of_one_pixel_changes_nothing(rng):
    image, cotangent = noise(rng, 2, 1, 19, 3), noise(rng, 2, 1, 19, 3)
    displacement = rng.uniform(0, 1, (2, 1, 19, 2)).astype(np.float32)
    for name, form in GRAD_DISPLACEMENTS.items():
        found = jax.jit(form)(image, displacement, cotangent)
        assert not np.asarray(found[..., 1]).any(), name
        assert np.asarray(found[..., 0]).any(), name
    down = np.stack([np.zeros_like(displacement[..., 0]), displacement[..., 1]], -1)
    for name, form in WARPS.items():
        warped = jax.jit(form)(image, down, sampling.all_rows(1))
        np.testing.assert_array_equal(warped, image, err_msg=name)
