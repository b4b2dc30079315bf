import dataclasses
import json
import shutil

import jax
import numpy as np
import onnx
import pytest

from tests.serving.conftest import COLORS, colored
from warp_translate.data.augment import EvalCrop
from warp_translate.errors import UserError
from warp_translate.serving import bundle as bundles
from warp_translate.serving import classifier_graph, export
from warp_translate.serving.classifier import Classifier, prepare
from warp_translate.types import to_float


@pytest.mark.parametrize("backend", ["onnx", "jax"])
def test_every_format_matches_the_checkpoint(classified, rng, backend):
    bundle, module, params = classified
    images = np.stack([colored(rng, each, 16, 16) for each in (*COLORS, None)])
    expected = jax.nn.softmax(module.apply({"params": params}, to_float(images)))
    found = Classifier(bundle, backend).probabilities(images)
    assert found.dtype == np.float32 and np.ptp(found) > 0.2
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("backend", ["onnx", "jax"])
def test_images_of_any_size_are_classified(classified, rng, backend):
    ready = Classifier(classified[0], backend)
    for size in ((40, 90), (16, 16), (17, 31)):
        for domain in COLORS:
            found = ready.classify(colored(rng, domain, *size))
            assert found.domain == domain
            assert found.probabilities[domain] == max(found.probabilities.values()) >= 0.8
            assert sum(found.probabilities.values()) == pytest.approx(1, abs=1e-5)
    for size in ((7, 5), (1, 1)):  # Smooth when enlarged, unlike the training images.
        assert ready.classify(colored(rng, "pear", *size)).probabilities.keys() == set(COLORS)
    pieces = np.concatenate([colored(rng, each, 16, 16)[:, :8] for each in COLORS[:2]], axis=1)
    found = ready.classify(np.tile(pieces, (2, 2, 1)))
    assert found.domain is None and max(found.probabilities.values()) < 0.8


def test_prepare_matches_the_crop_of_test_images(rng):
    def difference(image, size):
        expected = EvalCrop(size)({"image": image})["image"]
        return np.abs(prepare(image, size).astype(int) - expected).max()

    for height, width, size in ((64, 64, 16), (48, 96, 16), (96, 64, 32), (16, 16, 16)):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        assert difference(image, size) <= 1, (height, width, size)
    # If the size does not divide the sides, that crop is up to a pixel off center.
    ramp = np.linspace(0, 255, 80)[None, :, None] * np.ones((50, 1, 3))
    assert difference(ramp.astype(np.uint8), 16) <= 255 / 80 * 50 / 16


def test_differing_format_is_not_exported(classified, tmp_path, rng, monkeypatch):
    bundle, module, params = classified
    build = classifier_graph.build

    def wrong(flat, size):
        return build({**flat, "logits/bias": flat["logits/bias"] + np.float32([1, 0, 0])}, size)

    monkeypatch.setattr(classifier_graph, "build", wrong)
    there = shutil.copytree(bundle.folder, tmp_path / "colors")
    changed = dataclasses.replace(bundle, folder=there, threshold=0.5)
    with pytest.raises(UserError, match=r"classifier\.onnx differs from the checkpoint by 0\."):
        export.write_classifier(changed, module, params, [colored(rng, "apple", 16, 16)])
    assert bundles.read_any(there).threshold == 0.8
    assert [path.name for path in tmp_path.iterdir()] == ["colors"]


def test_bundle_describes_the_classifier(classified):
    bundle = classified[0]
    assert (bundle.domains, bundle.threshold, bundle.size) == (COLORS, 0.8, 16)
    parity = json.loads((bundle.folder / "parity.json").read_text())
    assert parity.keys() == {"classifier.onnx", "classifier.jaxexport"}
    assert all(found["images"] == 3 and found["largest"] < 1e-3 for found in parity.values())
    card = (bundle.folder / "README.md").read_text()
    assert "**apple**, **pear**, **plum**" in card and "| `test/accuracy` | 1 |" in card
    model = onnx.load(bundle.folder / "classifier.onnx")
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 18)]
    with pytest.raises(UserError, match="holds a classifier, not a generator"):
        bundles.read(bundle.folder)


@pytest.mark.parametrize(
    "changed",
    [
        *({"domains": value} for value in (["apple"], ["apple"] * 2, ["apple", 3], ["a", "../b"])),
        *({"threshold": value} for value in (1.5, "0.5", True)),
    ],
)
def test_invalid_fields_are_named(classified, tmp_path, changed):
    there = shutil.copytree(classified[0].folder, tmp_path / "colors")
    path = there / bundles.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    ((name, value),) = changed.items()
    with pytest.raises(UserError, match=rf"{name} must be ") as error:
        bundles.read_any(there)
    assert f"got {value!r}; export" in str(error.value)


@pytest.mark.parametrize(
    ("backend", "name"),
    [("onnx", "classifier.onnx"), ("jax", "classifier.jaxexport"), ("jax", "model.safetensors")],
)
def test_damaged_files_are_named(classified, tmp_path, backend, name):
    there = shutil.copytree(classified[0].folder, tmp_path / "colors")
    (there / name).write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=rf"{name} cannot be loaded") as error:
        Classifier(bundles.read_any(there, verify=False), backend)
    assert "\n" not in str(error.value)
