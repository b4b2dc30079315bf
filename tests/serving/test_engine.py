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

ENGINES = {
    "onnx": engines.OnnxEngine,
    "onnx_float": lambda bundle: engines.OnnxEngine(bundle, floats=True),
    "jax": engines.JaxEngine,
}


@pytest.fixture(scope="module")
def reference(exported):
    """The generator itself, compiled once for each size and factor."""
    _, generator, params, _ = exported
    run = jax.jit(
        lambda p, x, factor: translate(generator, p, to_float(x), factor), static_argnums=2
    )
    return lambda images, factor: run(params, images, factor)


@pytest.fixture(scope="module", params=ENGINES)
def engine(request, exported):
    return ENGINES[request.param](exported[0])


@pytest.mark.parametrize(
    ("shape", "factor"), [((2, 33, 50), None), ((1, 7, 90), 4), ((1, 1, 1), 4)]
)
def test_the_output_is_the_generator_s(engine, reference, shape, factor, rng):
    images = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = reference(images, factor or 2)
    output = np.asarray(to_uint8(expected.output)).astype(int)
    found = engine.translate(images, factor)
    assert found.maps is None and found.output.shape == images.shape
    np.testing.assert_allclose(found.output.astype(int), output, atol=1)
    found = engine.translate(images, factor, with_maps=True)
    np.testing.assert_allclose(found.output.astype(int), output, atol=1)
    assert set(found.maps) == set(MAPS)
    for name, value in found.maps.items():
        np.testing.assert_allclose(value, getattr(expected, name), atol=5e-3, err_msg=name)


def test_several_threads_get_their_own_answers(engine, rng):
    images = [rng.integers(0, 256, (1, 24, 20 + i % 3, 3), dtype=np.uint8) for i in range(24)]
    alone = [engine.translate(image).output for image in images]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda image: engine.translate(image).output, images))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_it_cannot_translate_is_refused(engine, rng):
    with pytest.raises(UserError, match="factor 3 is none of 2, 4, which the bundle apple-pear"):
        engine.translate(np.zeros((1, 8, 8, 3), np.uint8), 3)
    for images in (
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 4), np.uint8),
        np.zeros((1, 0, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 3), np.float32),
    ):
        with pytest.raises(ValueError, match="takes uint8 images"):
            engine.translate(images)


def test_too_little_memory_is_what_python_calls_it(exported, monkeypatch):
    engine = engines.OnnxEngine(exported[0])
    image = np.zeros((1, 8, 8, 3), np.uint8)

    def failing(words):
        def fail(*_):
            raise RuntimeError(words)

        monkeypatch.setattr(engine, "_session", type("Session", (), {"run": fail}))

    for words in ("std::bad_alloc", "RESOURCE_EXHAUSTED: Out of memory"):
        failing(words)
        with pytest.raises(MemoryError, match=r"\(1, 8, 8, 3\) at factor 2"):
            engine.translate(image)
    failing("another reason")
    with pytest.raises(RuntimeError, match="another reason"):
        engine.translate(image)


def test_jax_keeps_so_many_programs_and_no_more(exported, rng):
    engine = engines.JaxEngine(exported[0], most_programs=2)
    images = [rng.integers(0, 256, (1, 16 * n, 16, 3), dtype=np.uint8) for n in (1, 2, 3)]
    first = engine.translate(images[0]).output
    for image in images[1:]:
        engine.translate(image)
    assert len(engine._programs) == 2
    np.testing.assert_array_equal(engine.translate(images[0]).output, first)


@pytest.mark.parametrize(
    ("backend", "name"),
    [("onnx", "model.onnx"), ("jax", "model.safetensors"), ("jax", "factor2.jaxexport")],
)
def test_a_damaged_file_is_named(copied, backend, name):
    (copied / name).write_bytes(b"nothing of the kind")
    bundle = bundles.read(copied, verify=False)
    with pytest.raises(UserError, match=rf"{name} cannot be loaded") as error:
        engines.open_engine(bundle, backend).translate(np.zeros((1, 8, 8, 3), np.uint8))
    assert "\n" not in str(error.value)


def test_the_first_engine_that_is_installed_is_taken(exported, monkeypatch):
    bundle = exported[0]
    assert isinstance(engines.open_engine(bundle), engines.OnnxEngine)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert isinstance(engines.open_engine(bundle), engines.JaxEngine)
    with pytest.raises(UserError, match=r"onnx needs onnxruntime: pip install"):
        engines.open_engine(bundle, "onnx")


def test_onnx_takes_as_many_threads_as_it_is_given(exported):
    opened = engines.open_engine(exported[0], "onnx", threads=2)
    assert opened._session.get_session_options().intra_op_num_threads == 2


def test_onnx_keeps_no_memory_of_large_images(exported, rng, monkeypatch):
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
