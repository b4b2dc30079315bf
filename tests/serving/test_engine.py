import concurrent.futures
import sys

import jax
import numpy as np
import pytest

from warp_translate.errors import UserError
from warp_translate.models import translate
from warp_translate.serving import bundle as bundles
from warp_translate.serving import engine as engines
from warp_translate.serving import footprint
from warp_translate.types import to_float, to_uint8
from warp_translate.visualize import MAPS

ENGINES = {"onnx": engines.OnnxEngine, "jax": engines.JaxEngine}


@pytest.fixture(scope="module")
def reference(exported):
    """The generator itself, compiled once per size and factor."""
    _, generator, params, _ = exported
    run = jax.jit(
        lambda p, x, factor: translate(generator, p, to_float(x), factor), static_argnums=2
    )
    return lambda images, factor: run(params, images, factor)


@pytest.fixture(scope="module", params=ENGINES)
def engine(request, exported):
    return ENGINES[request.param](exported[0])


@pytest.mark.claim(25, 26)
@pytest.mark.parametrize(
    ("shape", "factor"), [((2, 33, 50), None), ((1, 7, 90), 4), ((1, 1, 1), 4)]
)
def test_output_and_maps_equal_the_generator_s(engine, reference, shape, factor, rng):
    images = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = reference(images, factor or 2)
    output = np.asarray(to_uint8(expected.output)).astype(int)
    for with_maps in (False, True):
        found = engine.translate(images, factor, with_maps=with_maps)
        assert found.output.shape == images.shape
        np.testing.assert_allclose(found.output.astype(int), output, atol=1)
        assert set(found.maps or {}) == (set(MAPS) if with_maps else set())
    for name, value in found.maps.items():
        np.testing.assert_allclose(value, getattr(expected, name), atol=5e-3, err_msg=name)


def test_engines_are_thread_safe(engine, rng):
    images = [rng.integers(0, 256, (1, 24, 20 + i % 3, 3), dtype=np.uint8) for i in range(24)]
    alone = [engine.translate(image).output for image in images]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda image: engine.translate(image).output, images))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_invalid_images_and_factors_are_rejected(engine):
    with pytest.raises(UserError, match="factor 3 is none of 2, 4, which the bundle apple-pear"):
        engine.translate(np.zeros((1, 8, 8, 3), np.uint8), 3)
    for shape in ((8, 8, 3), (1, 8, 8, 4), (1, 0, 8, 3)):
        with pytest.raises(ValueError, match="takes uint8 images"):
            engine.translate(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="takes uint8 images"):
        engine.translate(np.zeros((1, 8, 8, 3), np.float32))


def test_exhausted_memory_is_a_memory_error(exported, monkeypatch):
    engine = engines.OnnxEngine(exported[0])
    for message, kind, match in (
        ("std::bad_alloc", MemoryError, r"\(1, 8, 8, 3\) at factor 2"),
        ("RESOURCE_EXHAUSTED: Out of memory", MemoryError, r"\(1, 8, 8, 3\) at factor 2"),
        ("another reason", RuntimeError, "another reason"),
    ):

        def fail(*_, message=message):
            raise RuntimeError(message)

        monkeypatch.setattr(engine, "_session", type("Session", (), {"run": fail}))
        with pytest.raises(kind, match=match):
            engine.translate(np.zeros((1, 8, 8, 3), np.uint8))


def test_jax_keeps_a_limited_number_of_programs(exported, rng):
    engine = engines.JaxEngine(exported[0], most_programs=2)
    images = [rng.integers(0, 256, (1, 16 * n, 16, 3), dtype=np.uint8) for n in (1, 2, 3)]
    first = engine.translate(images[0]).output
    for image in images[1:]:
        engine.translate(image)
    assert engine._program.cache_info().currsize == 2
    np.testing.assert_array_equal(engine.translate(images[0]).output, first)


@pytest.mark.parametrize(
    ("backend", "name"),
    [("onnx", "model.onnx"), ("jax", "model.safetensors"), ("jax", "factor2.jaxexport")],
)
def test_damaged_files_are_named(copied, backend, name):
    (copied / name).write_bytes(b"nothing of the kind")
    bundle = bundles.read(copied, verify=False)
    with pytest.raises(UserError, match=rf"{name} cannot be loaded") as error:
        engines.open_engine(bundle, backend)
    assert "\n" not in str(error.value)


def test_auto_takes_the_first_installed_backend(exported, monkeypatch):
    bundle = exported[0]
    assert isinstance(engines.open_engine(bundle), engines.OnnxEngine)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert isinstance(engines.open_engine(bundle), engines.JaxEngine)
    with pytest.raises(UserError, match=r"onnx needs onnxruntime: pip install"):
        engines.open_engine(bundle, "onnx")


def test_large_images_bypass_the_arena(exported, rng, monkeypatch):
    opened = engines.open_engine(exported[0], "onnx")
    assert not opened._large.get_session_options().enable_cpu_mem_arena
    image = rng.integers(0, 256, (1, 64, 48, 3), dtype=np.uint8)
    expected = opened.translate(image).output
    takes = 64 * 48 * footprint.bytes_per_pixel(exported[0].architecture, 2)
    for most, other in ((takes - 1, "_session"), (takes, "_large")):
        monkeypatch.setattr(engines, "_ARENA_BYTES", most)
        with monkeypatch.context() as patch:
            patch.setattr(opened, other, None)
            np.testing.assert_array_equal(opened.translate(image).output, expected)
