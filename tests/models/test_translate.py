import functools
import importlib
import re
import tokenize
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import warp_translate
from tests.models.random_params import random_params
from tests.ops.reference import noise, numpy_box, scipy_warp
from warp_translate.models import Fusion, Generator, translate
from warp_translate.ops import downsample

# The package attribute of this name is the function.
translation_module = importlib.import_module("warp_translate.models.translate")

tiny = functools.partial(Generator, width=4, blocks=1, max_displacement=3.0)


def run_all(original, *cases, factor=2):
    """Results of several generators and options with the same parameters, in one program."""
    params = random_params(cases[0][0])

    @jax.jit
    def function(params, original):
        return [translate(each, params, original, factor, **options) for each, options in cases]

    return function(params, original)


def run(generator, params, original, factor, **options):
    return jax.jit(lambda p, x: translate(generator, p, x, factor, **options))(params, original)


@pytest.mark.parametrize(
    ("form", "options", "shape", "factor", "pixels"),
    [
        ({}, {}, (2, 64, 16, 3), 2, 2**9),  # Eight bands.
        ({}, {"mask_weights": "warped"}, (1, 40, 9, 3), 1, 1),  # Bands of one row.
        ({"head": "literal"}, {}, (1, 1, 5, 3), 8, 1),  # A single one.
        ({"head": "reduced"}, {}, (1, 61, 13, 3), 4, 13 * 12),
        ({"enlarge": "transposed"}, {}, (1, 61, 13, 3), 4, 13 * 12),
        ({"enlarge": "transposed", "head": "literal"}, {}, (1, 61, 13, 3), 4, 13 * 12),
        # The factor does not divide the last band.
        ({"head_kernel": 7}, {"mask_weights": "warped"}, (1, 61, 13, 3), 4, 13 * 12),
        (
            {"head": "literal", "head_kernel": 5},
            {"mask_weights": "warped"},
            (1, 61, 13, 3),
            4,
            13 * 12,
        ),
        ({"displacement_size": "reduced"}, {}, (1, 61, 13, 3), 4, 13 * 12),
        ({"synthesis": "affine"}, {}, (1, 61, 13, 3), 4, 13 * 12),
        ({}, {"sampling": "cubic"}, (2, 61, 13, 3), 4, 13 * 12),
        ({"displacement_size": "coarse"}, {}, (1, 61, 13, 3), 4, 13 * 12),
        (
            {"head": "literal", "displacement_size": "reduced", "border": "zero"},
            {},
            (1, 61, 13, 3),
            4,
            13 * 12,
        ),
    ],
)
def test_bands_give_the_same_values(rng, monkeypatch, form, options, shape, factor, pixels):
    monkeypatch.setattr(translation_module, "_BAND_PIXELS_CPU", pixels)
    generator = tiny(**form)
    whole, bands = run_all(
        noise(rng, *shape),
        *((generator, options | {"in_bands": each}) for each in (False, True)),
        factor=factor,
    )
    assert np.abs(whole.displacement).max() > 1
    for name in ("output", "reduced", "pretranslated", "mask", "displacement", "warped"):
        np.testing.assert_allclose(
            getattr(bands, name), getattr(whole, name), rtol=0, atol=2e-5, err_msg=name
        )


def test_reduction_is_used(rng):
    generator, original = tiny(), noise(rng, 1, 16, 24, 3)
    box, *others = run_all(
        original, *((generator, {"reduction": name}) for name in ("box", "linear", "nearest"))
    )
    for name, found in zip(("linear", "nearest"), others, strict=True):
        np.testing.assert_allclose(found.reduced, downsample(original, 2, name), atol=1e-6)
        assert np.abs(found.pretranslated - box.pretranslated).max() > 1e-2
    with pytest.raises(ValueError, match=r"reduction must be one of .*'cubic'"):
        run_all(original, (generator, {"reduction": "cubic"}))


def test_warp_kernels_and_deterministic_are_used():
    generator = tiny(blocks=0)
    params = random_params(generator)
    original = jax.ShapeDtypeStruct((1, 16, 128, 3), jnp.float32)

    def output(x, **options):
        return translate(generator, params, x, 2, **options).output.sum()

    def count(operation, platform, function):
        traced = jax.jit(function).trace(original)
        return traced.lower(lowering_platforms=(platform,)).as_text().count(operation)

    for options, calls in (({}, 0), ({"warp_kernels": True}, 1)):
        forward = functools.partial(output, **options)
        assert count("@tpu_custom_call", "tpu", forward) == calls
    for options, scatters in (({}, 1), ({"deterministic": True}, 2)):
        slope = jax.grad(functools.partial(output, **options))
        assert count('"stablehlo.scatter"', "cuda", slope) == scatters


@pytest.mark.parametrize("head", ["projected", pytest.param("literal", marks=pytest.mark.full)])
def test_remat_keeps_less_and_the_same_gradients(rng, head):
    kinds = ("none", "blocks", "all")
    original, weights = (jnp.asarray(noise(rng, 2, 16, 24, 3)) for _ in range(2))

    def loss(remat, blocks):
        generator = tiny(head=head, blocks=blocks, remat=remat)
        return lambda params, x: (translate(generator, params, x, 2).output * weights).sum()

    def kept(remat):
        """Bytes of residuals, parameters included."""
        inputs = random_params(tiny(head=head, blocks=5)), original
        pull = jax.eval_shape(lambda *inputs: jax.vjp(loss(remat, 5), *inputs)[1], *inputs)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pull))

    none, blocks, everything = map(kept, kinds)
    assert blocks < 0.9 * none
    assert everything < 0.8 * blocks

    @jax.jit
    def gradients(*inputs):
        return [jax.grad(loss(remat, 1), (0, 1))(*inputs) for remat in kinds]

    params = random_params(tiny(head=head))
    plain, *others = gradients(params, original)
    assert jax.tree.structure(plain[0]) == jax.tree.structure(params)
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(plain)) > 0
    for other in others:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max()),
            other,
            plain,
        )


def test_bands_halve_the_memory_of_a_large_image():
    generator = tiny()
    params = random_params(generator)
    original = jax.ShapeDtypeStruct((1, 1024, 1024, 3), jnp.float32)

    def temporaries(in_bands):
        function = lambda p, x: translate(generator, p, x, 8, in_bands=in_bands).output  # noqa: E731
        compiled = jax.jit(function).lower(params, original).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    images = 3 * 1024 * 1024 * 4
    assert temporaries(True) < 2.5 * images
    assert temporaries(False) > 5 * images


@pytest.mark.parametrize(("height", "width", "factor"), [(1, 1, 4), (3, 50, 2), (33, 17, 3)])
def test_any_size_keeps_its_shape_and_zero_displacement_its_values(rng, height, width, factor):
    generator, original = tiny(), noise(rng, 2, height, width, 3)
    params = random_params(generator)
    params["displacement"] = jax.tree.map(np.zeros_like, params["displacement"])
    made = run(generator, params, original, factor)
    np.testing.assert_array_equal(made.displacement, 0)
    np.testing.assert_array_equal(made.warped, original)
    channels = {"output": 3, "pretranslated": 3, "mask": 1, "displacement": 2}
    for name, count in channels.items():
        assert getattr(made, name).shape == (2, height, width, count)
    assert made.reduced.shape == (2, -(-height // factor), -(-width // factor), 3)
    for leaf in jax.tree.leaves(made):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()


@pytest.mark.claim(1, 13)
@pytest.mark.parametrize(
    ("height", "width", "factor", "mask_weights"),
    [
        (16, 8, 1, "pretranslated"),  # no padding
        (33, 17, 2, "warped"),  # padded to 40 x 24
        (5, 30, 4, "pretranslated"),  # padded to 32 x 32, twice the stride of 16
    ],
)
def test_equals_separate_steps_on_the_padded_image(rng, height, width, factor, mask_weights):
    generator = tiny()
    params, original = random_params(generator), noise(rng, 2, height, width, 3)
    made = run(generator, params, original, factor, mask_weights=mask_weights)

    stride = 4 * factor
    below = max(-height % stride, 2 * stride - height)
    right = max(-width % stride, 2 * stride - width)
    padded = np.pad(original, ((0, 0), (0, below), (0, right), (0, 0)), mode="edge")
    reduced = numpy_box(padded, factor).astype(np.float32)
    apply = jax.jit(lambda r, o: generator.apply({"params": params}, r, o, factor))
    maps = apply(reduced, padded)
    for name in ("pretranslated", "mask", "displacement"):
        expected = getattr(maps, name)[:, :height, :width]
        np.testing.assert_allclose(getattr(made, name), expected, rtol=1e-4, atol=1e-4)
    rows, columns = -(-height // factor), -(-width // factor)
    np.testing.assert_allclose(made.reduced, reduced[:, :rows, :columns], atol=1e-6)

    assert np.abs(made.displacement).max() > 0.5
    np.testing.assert_allclose(
        made.warped, scipy_warp(original, made.displacement), rtol=0, atol=1e-6
    )
    mask = np.asarray(made.mask, np.float64)
    weighted, rest = made.pretranslated, made.warped
    if mask_weights == "warped":
        weighted, rest = rest, weighted
    expected = mask * np.asarray(weighted) + (1 - mask) * np.asarray(rest)
    np.testing.assert_allclose(made.output, expected, rtol=0, atol=1e-6)


def test_each_fusion_returns_its_branch(rng, monkeypatch):
    original = noise(rng, 1, 9, 13, 3)
    monkeypatch.setattr(translation_module, "_BAND_PIXELS_CPU", 2 * 13)
    cases = {
        "full": (tiny(), {}),
        "mask of one": (tiny(mask_bias=100.0), {}),
        "pretranslated": (tiny(), {"fusion": "pretranslated"}),
        "warped": (tiny(), {"fusion": "warped"}),
        "unwarped": (tiny(), {"fusion": "unwarped"}),
        "unwarped in bands": (tiny(), {"fusion": "unwarped", "in_bands": True}),
    }
    made = dict(zip(cases, run_all(original, *cases.values()), strict=True))

    # By default the mask weights the pretranslated image.
    one, full = made["mask of one"], made["full"]
    np.testing.assert_allclose(one.output, one.pretranslated, atol=1e-6)
    assert np.abs(one.output - one.warped).max() > 0.1

    # One branch; the others are computed all the same.
    for name in ("pretranslated", "warped"):
        found = made[name]
        np.testing.assert_array_equal(found.output, getattr(found, name))
        np.testing.assert_allclose(found.pretranslated, full.pretranslated, atol=1e-4)
        np.testing.assert_allclose(found.mask, full.mask, atol=1e-5)
        np.testing.assert_allclose(found.warped, full.warped, atol=1e-4)
        assert np.abs(full.output - found.output).max() > 0.1
    assert np.abs(made["warped"].output - original).max() > 0.1

    # A blend with the unwarped original.
    for name in ("unwarped", "unwarped in bands"):
        found = made[name]
        np.testing.assert_array_equal(found.displacement, 0.0)
        np.testing.assert_array_equal(found.warped, original)
        mask = np.asarray(found.mask)
        expected = mask * np.asarray(found.pretranslated) + (1 - mask) * original
        np.testing.assert_allclose(found.output, expected, rtol=0, atol=1e-6)
        assert np.ptp(mask) > 0.01


def test_unwarped_fusion_trains_the_mask_only(rng):
    generator, original = tiny(blocks=0), noise(rng, 1, 8, 8, 3)

    def loss(params):
        return translate(generator, params, original, 2, fusion="unwarped").output.mean()

    gradients = jax.jit(jax.grad(loss))(random_params(generator))
    np.testing.assert_array_equal(gradients["displacement"]["kernel"], 0.0)
    assert np.abs(gradients["mask"]["kernel"]).max() > 0


@pytest.mark.claim(1, 2, 10, 13, 14, 22)
def test_trunk_sees_only_the_reduced_image(rng):
    # Sixteenths and a checkerboard whose 2 x 2 means are exactly zero.
    original = (rng.integers(-8, 9, (1, 16, 16, 3)) / 16).astype(np.float32)
    board = np.where(np.add.outer(np.arange(16), np.arange(16)) % 2, 0.25, -0.25)
    sharpened = original + board.astype(np.float32)[None, :, :, None]
    for head, blind in {"literal": True, "reduced": True, "projected": False}.items():
        generator = tiny(head=head)
        apply = jax.jit(lambda p, x, g=generator: translate(g, p, x, 2))
        params = random_params(generator)
        before, after = apply(params, original), apply(params, sharpened)
        np.testing.assert_array_equal(before.reduced, after.reduced)
        for name in ("pretranslated", "mask", "displacement"):
            # Only the projected head joins the original.
            same = np.array_equal(getattr(before, name), getattr(after, name))
            assert same == blind, (head, name)
        assert np.abs(before.warped - after.warped).max() > 0.1


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        *((shape, {}, re.escape(str(shape))) for shape in [(8, 8, 3), (1, 8, 8, 4), (1, 0, 8, 3)]),
        ((1, 8, 8, 3), {"factor": 0}, "integer of at least 1, got 0"),
        ((1, 8, 8, 3), {"factor": 2.0}, r"integer of at least 1, got 2\.0"),
        ((1, 8, 8, 3), {"fusion": "sum"}, "full.*pretranslated.*'sum'"),
        ((1, 8, 8, 3), {"sampling": "best"}, "bilinear.*cubic.*'best'"),
        *(
            ((1, 8, 8, 3), {"fusion": fusion, "mask_weights": "zzz"}, "mask_weights .*'zzz'")
            for fusion in get_args(Fusion)
        ),
    ],
)
def test_error_names_the_invalid_argument(shape, arguments, message):
    with pytest.raises(ValueError, match=message):
        translate(tiny(), {}, jnp.zeros(shape), **({"factor": 2} | arguments))


def test_ops_and_models_do_not_use_jax_image_resize():
    """It is a dense matrix product per axis."""
    package = Path(warp_translate.__file__).parent
    paths = [*package.glob("ops/**/*.py"), *package.glob("models/**/*.py")]
    assert len(paths) >= 8
    for path in paths:
        with path.open("rb") as file:
            code = [
                token.string
                for token in tokenize.tokenize(file.readline)
                if token.type not in (tokenize.COMMENT, tokenize.STRING)
            ]
        assert "jax.image" not in "".join(code) and "image.resize" not in "".join(code), path
