import itertools
import os
import shutil
import threading

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy

from tests.serving.conftest import colored, rewrite
from warp_translate.errors import UserError
from warp_translate.serving import bundle as bundles
from warp_translate.serving.batcher import Batcher
from warp_translate.serving.registry import Registry, open_bundle
from warp_translate.serving.service import Service


class Ready:
    """An engine that only knows its bundle."""

    def __init__(self, bundle):
        self.bundle = bundle


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "served"


@pytest.fixture
def put(exported, folder):
    """Exports a bundle of these domains into the folder."""

    def copy(name, source="apple", target="pear", *, size=32, broken=False):
        with bundles.replaced(folder / name) as partial:
            shutil.copytree(exported[0].folder, partial, dirs_exist_ok=True)
            rewrite(partial, name=name, source=source, target=target, size=size)
            if broken:
                (partial / "model.onnx").write_bytes(b"broken")

    return copy


def test_scan_sees_added_changed_and_removed_bundles(put, folder):
    put("one")
    (folder / "notes").mkdir()
    (folder / "file.txt").write_text("x")
    shutil.copytree(folder / "one", folder / ".hidden")
    registry = Registry(folder, Ready)
    assert registry.snapshot().engines == {}
    first = registry.scan()
    assert list(first.engines) == [("apple", "pear")] and not first.problems
    assert registry.scan().engines == first.engines  # Nothing is loaded again.

    put("two", "pear", "apple")
    put("one", size=64)
    second = registry.scan()
    assert set(second.engines) == {("apple", "pear"), ("pear", "apple")}
    assert second.engines["apple", "pear"].bundle.size == 64
    assert list(first.engines) == [("apple", "pear")]
    assert first.engines["apple", "pear"].bundle.size == 32

    for _ in range(2):  # A folder that is missing for one scan is being replaced.
        (folder / "one").rename(folder / ".one.older")
        assert registry.scan().engines == second.engines
        (folder / ".one.older").rename(folder / "one")
        assert registry.scan().engines == second.engines
    shutil.rmtree(folder / "two")
    assert registry.scan().engines == second.engines
    assert list(registry.scan().engines) == [("apple", "pear")]


def test_broken_bundle_affects_neither_others_nor_its_older_version(put, folder):
    put("bad", "plum", "fig", broken=True)
    put("good")
    put("other", "pear", "apple")
    registry = Registry(folder, Ready)
    found = registry.scan()
    assert set(found.engines) == {("apple", "pear"), ("pear", "apple")}
    assert list(found.problems) == ["bad"] and "model.onnx is damaged" in found.problems["bad"]

    put("good", size=64, broken=True)
    again = registry.scan()
    assert again.engines == found.engines
    assert set(again.problems) == {"bad", "good"}
    put("good", size=64)
    put("bad", "plum", "fig")
    fixed = registry.scan()
    assert not fixed.problems and len(fixed.engines) == 3
    assert fixed.engines["apple", "pear"].bundle.size == 64


def damage_graph(folder):
    """A graph of another network, which loads."""
    image, output = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, [*"NHWC"])
        for name in ("image", "output")
    )
    nodes = [onnx.helper.make_node("Identity", ["image"], ["output"])]
    graph = onnx.helper.make_graph(nodes, "other", [image], [output])
    operators = [onnx.helper.make_opsetid("", 18)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=operators, ir_version=8), folder / "model.onnx"
    )


def damage_computation(folder):
    (folder / "factor4.jaxexport").write_bytes(b"nothing of the kind")


def damage_parameters(folder):
    found = safetensors.numpy.load_file(folder / "model.safetensors")
    found["mask/kernel"] *= np.nan
    (folder / "model.safetensors").write_bytes(safetensors.numpy.save(found))


@pytest.mark.parametrize(
    ("damage", "backend", "match"),
    [
        (damage_graph, "onnx", "cannot be used (InvalidArgument: "),
        (damage_computation, "jax", "factor4.jaxexport cannot be loaded"),
        (damage_parameters, "jax", "a-bad is invalid; export the bundle again"),
    ],
)
def test_any_damage_is_reported_once_and_affects_no_other(put, folder, damage, backend, match):
    put("a-bad", "plum", "fig")
    put("good")
    damage(folder / "a-bad")
    bundles.write_config(bundles.read(folder / "a-bad", verify=False))  # Valid checksums.
    notes = []

    def ready(bundle):  # Loads the damaged bundle only.
        return open_bundle(bundle, backend) if bundle.name == "a-bad" else Ready(bundle)

    registry = Registry(folder, ready, note=notes.append)
    for _ in range(2):
        found = registry.scan()
        assert list(found.engines) == [("apple", "pear")]
        assert list(found.problems) == ["a-bad"] and match in found.problems["a-bad"]
    assert notes == [f"a-bad is not served: {found.problems['a-bad']}"] and "\n" not in notes[0]
    put("new", "pear", "apple")
    assert len(registry.scan().engines) == 2


def test_unexpected_exceptions_are_problems_of_their_folder(put, folder):
    put("one")
    put("two", "pear", "apple")
    put(os.fsdecode(b"caf\xe9\n"), broken=True)
    opened = []

    def ready(bundle):
        opened.append(bundle.name)
        if bundle.size == 13:
            raise ZeroDivisionError("by\nzero")
        return Ready(bundle)

    registry = Registry(folder, ready)
    first = registry.scan()
    ((name, problem),) = first.problems.items()
    assert name == r"caf\udce9\n" and problem.isprintable()
    put("one", size=13)
    found = registry.scan()
    assert found.engines == first.engines
    assert found.problems["one"].endswith(
        "one cannot be used (ZeroDivisionError: by zero); its previous version stays in service"
    )
    assert opened == ["one", "two", "one"]


def test_bundle_copied_file_by_file_is_served_once_complete(put, folder, tmp_path):
    put("one")
    whole = shutil.move(folder / "one", tmp_path / "whole")
    (folder / "one").mkdir()
    registry = Registry(folder, Ready)
    for path in sorted(whole.iterdir()):  # config.json is among the first.
        assert not registry.scan().engines
        shutil.copy(path, folder / "one")
    assert list(registry.scan().engines) == [("apple", "pear")]


def test_bundle_of_a_killed_export_is_restored(put, folder):
    put("one")
    (folder / "one").rename(folder / ".one.0a1b2c3d.older")
    notes = []
    found = Registry(folder, Ready, note=notes.append).scan()
    assert list(found.engines) == [("apple", "pear")]
    assert notes == ["one is restored after an interrupted export"]


def test_factors_are_those_of_the_replaced_bundle(put, folder, rng):
    put("one")
    registry, batcher = Registry(folder), Batcher()
    service = Service(registry, batcher, budget_milliseconds=1e-6, most_pixels=10**4, seconds=20)
    image = rng.integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    for factors in ([2, 4], [2]):  # The same parameters, hence the same build.
        rewrite(folder / "one", factors=factors)
        engine = registry.scan().engines["apple", "pear"]
        assert service.translate(engine, image).factor == factors[-1]
    batcher.close()


def test_first_of_two_equivalent_bundles_is_served(put, folder, classified, rng):
    put("a", size=64)
    put("b")
    for name in ("colors", "later"):
        shutil.copytree(classified[0].folder, folder / name)
    registry = Registry(folder)
    found = registry.scan()
    assert found.engines["apple", "pear"].bundle.name == "a"
    assert found.classifier.classify(colored(rng, "plum", 9, 9)).domain == "plum"
    assert found.problems == {
        "b": "b translates from apple to pear like a, which is served; remove one of them",
        "later": "later classifies like colors, which is served; remove one of them",
    }
    shutil.rmtree(folder / "colors")
    assert registry.scan().classifier is found.classifier
    assert list(registry.scan().problems) == ["b"]
    assert registry.snapshot().classifier is not found.classifier


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match="none cannot be read"):
        Registry(tmp_path / "none").scan()


@pytest.mark.parametrize("kind", ["classified", "exported"])
def test_open_bundle_passes_the_threads_on(request, monkeypatch, kind):
    seen, session = [], onnxruntime.InferenceSession

    def spy(path, options, **rest):
        seen.append(options.intra_op_num_threads)
        return session(path, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    open_bundle(request.getfixturevalue(kind)[0], "onnx", threads=3)
    assert set(seen) == {3}


def test_no_request_fails_while_its_bundle_is_replaced(put, folder, rng):
    put("one")
    registry = Registry(folder)
    registry.scan()
    image = rng.integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    expected = registry.snapshot().engines["apple", "pear"].translate(image).output
    stop, failures, answers = threading.Event(), [], itertools.count()

    def ask():
        while not stop.is_set():
            try:
                found = registry.snapshot().engines["apple", "pear"].translate(image).output
                np.testing.assert_array_equal(found, expected)
                next(answers)
            except Exception as error:
                failures.append(repr(error))
                return

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    sizes = set()
    for turn in range(8):
        put("one", size=32 + turn)
        sizes.add(registry.scan().engines["apple", "pear"].bundle.size)
    stop.set()
    for thread in threads:
        thread.join(20)
    assert not failures and next(answers) > 8
    assert sizes == set(range(32, 40))
