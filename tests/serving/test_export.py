import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from tests.serving.conftest import describe, random_generator
from warp_translate.errors import UserError
from warp_translate.serving import bundle as bundles
from warp_translate.serving import engine, export, onnx_graph


def test_parity_is_measured_and_written(exported):
    bundle, _, _, found = exported
    written = json.loads((bundle.folder / "parity.json").read_text())
    assert set(written) == set(found) == {"model.onnx", "jaxexport"}
    for name, parity in written.items():
        # One image with the bundle's own factor, two sizes with the other one.
        assert parity["images"] == 3 and parity["largest"] <= 1
        assert parity["values"] == 3 * (64 * 64 + 65 * 47 + 128 * 96)
        assert (
            f"| `{name}` | 3 | {parity['largest']} |" in (bundle.folder / "README.md").read_text()
        )
    # The same computation up to rounding.
    assert max(written["jaxexport"]["maps"].values()) < 1e-4


def test_parameters_are_saved_by_path(exported):
    bundle, _, params, _ = exported
    saved = safetensors.numpy.load_file(bundle.folder / "model.safetensors")
    np.testing.assert_array_equal(saved["mask/kernel"], params["mask"]["kernel"])
    assert traverse_util.unflatten_dict(saved, sep="/").keys() == params.keys()
    assert (bundle.folder / "model.safetensors").stat().st_mode & 0o044


def test_half_precision_halves_the_files_and_keeps_the_output(exported, tmp_path):
    bundle, generator, params, _ = exported
    image = np.random.default_rng(3).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    half = describe(tmp_path / "apple-pear", generator, factors=(2,))
    found = export.write_bundle(half, generator, params, [image], half=True)
    assert max(parity.largest for parity in found.values()) <= 1
    saved = safetensors.numpy.load_file(half.folder / "model.safetensors")
    for path, value in export.flatten(params).items():
        np.testing.assert_array_equal(saved[path], value.astype(np.float16), strict=True)
    size = 2 * sum(value.size for value in saved.values())
    graphs = [(each.folder / "model.onnx").stat().st_size for each in (bundle, half)]
    assert graphs[0] - graphs[1] > 0.8 * size  # The casts take some bytes.
    images = image[None]
    outputs = [
        engine.OnnxEngine(each).translate(images, 2).output.astype(int)
        for each in (bundle, bundles.read(half.folder))
    ]
    assert 0 < np.abs(outputs[0] - outputs[1]).mean() < 1


def test_a_generator_trained_in_bfloat16_is_exported_in_float32(tmp_path):
    """In bfloat16 its values differ by several levels from those of every format."""
    generator, params = random_generator(dtype=jnp.bfloat16)
    bundle = describe(tmp_path / "apple-pear", generator, factors=(2,))
    image = np.random.default_rng(3).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    found = export.write_bundle(bundle, generator, params, [image])
    assert max(parity.largest for parity in found.values()) <= 1


def test_parameter_beyond_half_precision_is_an_error(tmp_path):
    generator, params = random_generator()
    params["mask"]["bias"] = np.float32([1e5])
    bundle = describe(tmp_path / "apple-pear", generator, factors=(2,))
    with pytest.raises(UserError, match=r"mask/bias holds 1e\+05.*without --half"):
        export.write_bundle(bundle, generator, params, [], half=True)
    assert list(tmp_path.iterdir()) == []


def test_differing_format_is_not_exported(tmp_path, monkeypatch):
    generator, params = random_generator()
    build = onnx_graph.build

    def wrong(flat, architecture):
        bias = flat["pretranslated/bias"] + 0.1
        return build({**flat, "pretranslated/bias": bias}, architecture)

    monkeypatch.setattr(onnx_graph, "build", wrong)
    image = np.random.default_rng(2).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    bundle = describe(tmp_path / "apple-pear", generator, factors=(2,))
    with pytest.raises(UserError, match=r"model\.onnx differs .* by \d+ levels"):
        export.write_bundle(bundle, generator, params, [image])
    assert list(tmp_path.iterdir()) == []
