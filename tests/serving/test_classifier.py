import json
import shutil

import jax
import numpy as np
import onnx
import onnxruntime
import pytest

from tests.serving.conftest import COLOURS, coloured
from warp_translate.data.augment import EvalCrop
from warp_translate.errors import UserError
from warp_translate.serving import bundle as bundles
from warp_translate.serving import classifier_graph, export
from warp_translate.serving.classifier import Classifier, prepare
from warp_translate.serving.registry import Registry, open_bundle
from warp_translate.types import to_float

SESSION = onnxruntime.InferenceSession


@pytest.mark.parametrize("backend", ["onnx", "jax"])
def test_every_format_says_what_the_checkpoint_says(classified, rng, backend):
    bundle, module, params = classified
    images = np.stack([coloured(rng, each, 16, 16) for each in (*COLOURS, None)])
    expected = jax.nn.softmax(module.apply({"params": params}, to_float(images)))
    found = Classifier(bundle, backend).probabilities(images)
    assert found.dtype == np.float32 and np.ptp(found) > 0.2
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("backend", ["onnx", "jax"])
def test_domains_of_any_size_are_known_and_others_are_not(classified, rng, backend):
    ready = Classifier(classified[0], backend)
    for size in ((40, 90), (16, 16), (17, 31)):
        for domain in COLOURS:
            found = ready.classify(coloured(rng, domain, *size))
            assert found.domain == domain
            assert found.probabilities[domain] == max(found.probabilities.values()) >= 0.8
            assert sum(found.probabilities.values()) == pytest.approx(1, abs=1e-5)
    for size in ((7, 5), (1, 1)):  # Smooth when enlarged, and no longer of the kind it knows.
        assert ready.classify(coloured(rng, "pear", *size)).probabilities.keys() == set(COLOURS)
    pieces = np.concatenate([coloured(rng, each, 16, 16)[:, :8] for each in COLOURS[:2]], axis=1)
    found = ready.classify(np.tile(pieces, (2, 2, 1)))
    assert found.domain is None and max(found.probabilities.values()) < 0.8


def test_what_it_sees_is_what_test_images_were(rng):
    def difference(image, size):
        expected = EvalCrop(size)({"image": image})["image"]
        return np.abs(prepare(image, size).astype(int) - expected).max()

    for height, width, size in ((64, 64, 16), (48, 96, 16), (96, 64, 32), (16, 16, 16)):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        assert difference(image, size) <= 1, (height, width, size)
    # Where the sides divide badly the crop of the test images is up to a pixel off the middle.
    ramp = np.linspace(0, 255, 80)[None, :, None] * np.ones((50, 1, 3))
    assert difference(ramp.astype(np.uint8), 16) <= 255 / 80 * 50 / 16


def test_a_bundle_is_not_written_where_a_format_is_off(classified, tmp_path, rng, monkeypatch):
    bundle, module, params = classified
    build = classifier_graph.build

    def spoilt(flat, size):
        return build({**flat, "logits/bias": flat["logits/bias"] + np.float32([1, 0, 0])}, size)

    monkeypatch.setattr(classifier_graph, "build", spoilt)
    there = shutil.copytree(bundle.folder, tmp_path / "colours")
    with pytest.raises(UserError, match=r"classifier\.onnx differs from the checkpoint by 0\."):
        export.write_classifier(
            # What is there stays.
            bundles.dataclasses.replace(bundle, folder=there, threshold=0.5),
            module,
            params,
            [coloured(rng, "apple", 16, 16)],
        )
    assert bundles.read_any(there).threshold == 0.8
    assert [path.name for path in tmp_path.iterdir()] == ["colours"]


def test_the_bundle_tells_what_it_is(classified):
    bundle = classified[0]
    assert (bundle.domains, bundle.threshold, bundle.size) == (COLOURS, 0.8, 16)
    parity = json.loads((bundle.folder / "parity.json").read_text())
    assert parity.keys() == {"classifier.onnx", "classifier.jaxexport"}
    assert all(found["images"] == 3 and found["largest"] < 1e-3 for found in parity.values())
    card = (bundle.folder / "README.md").read_text()
    assert "**apple**, **pear**, **plum**" in card and "| `test/accuracy` | 1 |" in card
    model = onnx.load(bundle.folder / "classifier.onnx")
    assert [each.domain for each in model.opset_import] == [""]
    assert model.opset_import[0].version == 18
    with pytest.raises(UserError, match="holds a classifier, which translates nothing"):
        bundles.read(bundle.folder)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"domains": ["apple"]}, r"domains are \['apple'\]"),
        ({"domains": ["apple", "apple"]}, "domains are"),
        ({"domains": ["apple", 3]}, "domains are"),
        ({"domains": ["apple", "../pear"]}, "domain '../pear' must be"),
        ({"threshold": 1.5}, r"threshold is 1\.5"),
        ({"threshold": "0.5"}, r"threshold is '0\.5'"),
        ({"threshold": True}, "threshold is True"),
        ({"kind": "oracle"}, "kind 'oracle' is none that this version reads"),
    ],
)
def test_a_config_that_cannot_be_is_named(classified, tmp_path, changed, message):
    there = shutil.copytree(classified[0].folder, tmp_path / "colours")
    path = there / bundles.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(UserError, match=message):
        bundles.read_any(there)


@pytest.mark.parametrize(
    ("backend", "name"),
    [("onnx", "classifier.onnx"), ("jax", "classifier.jaxexport"), ("jax", "model.safetensors")],
)
def test_a_damaged_file_is_named(classified, tmp_path, backend, name):
    there = shutil.copytree(classified[0].folder, tmp_path / "colours")
    (there / name).write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=rf"{name} cannot be loaded") as error:
        Classifier(bundles.read_any(there, verify=False), backend)
    assert "\n" not in str(error.value)


def test_a_registry_serves_one_classifier(classified, exported, tmp_path, rng):
    shutil.copytree(classified[0].folder, tmp_path / "colours")
    shutil.copytree(exported[0].folder, tmp_path / "apple-pear")
    registry = Registry(tmp_path)
    assert registry.snapshot().classifier is None
    served = registry.scan()
    assert list(served.engines) == [("apple", "pear")] and not served.problems
    assert served.classifier.classify(coloured(rng, "plum", 9, 9)).domain == "plum"
    shutil.copytree(classified[0].folder, tmp_path / "later")
    again = registry.scan()
    assert again.classifier is served.classifier
    assert "later classifies as colours does" in again.problems["later"]
    shutil.rmtree(tmp_path / "colours")
    registry.scan()
    found = registry.scan()
    assert found.classifier is not served.classifier and not found.problems


@pytest.mark.parametrize("kind", ["classified", "exported"])
def test_a_registry_hands_the_threads_on(request, monkeypatch, kind):
    seen = []

    def session(path, options, **rest):
        seen.append(options.intra_op_num_threads)
        return SESSION(path, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    open_bundle(request.getfixturevalue(kind)[0], "onnx", threads=3)
    assert set(seen) == {3}
