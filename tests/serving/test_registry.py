import itertools
import os
import shutil
import threading

import numpy as np
import pytest
import safetensors.numpy

from tests.serving.conftest import rewrite
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
    """Puts a bundle of these domains into the folder, as the export does."""

    def copy(name, source="apple", target="pear", *, size=32, broken=False):
        with bundles.replaced(folder / name) as partial:
            shutil.copytree(exported[0].folder, partial, dirs_exist_ok=True)
            rewrite(partial, name=name, source=source, target=target, size=size)
            if broken:
                (partial / "model.onnx").write_bytes(b"broken")

    return copy


def test_what_is_added_changed_and_removed_is_seen(put, folder):
    put("one")
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

    shutil.rmtree(folder / "two")
    assert registry.scan().engines == second.engines  # It may be about to be replaced.
    assert list(registry.scan().engines) == [("apple", "pear")]


def test_one_that_is_away_for_a_moment_stays(put, folder):
    put("one")
    registry = Registry(folder, Ready)
    first = registry.scan()
    for _ in range(2):
        (folder / "one").rename(folder / ".one.older")
        assert registry.scan().engines == first.engines
        (folder / ".one.older").rename(folder / "one")
        assert registry.scan().engines == first.engines


def test_a_broken_one_is_reported_and_leaves_the_others_and_its_older_self(put, folder):
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
    mended = registry.scan()
    assert not mended.problems and len(mended.engines) == 3
    assert mended.engines["apple", "pear"].bundle.size == 64


def spoil_number(folder):
    rewrite(folder, architecture={"width": 10**400})


def spoil_format(folder):
    (folder / bundles.CONFIG).write_text("[" * 10**5)


def spoil_pipe(folder):
    (folder / bundles.CONFIG).unlink()
    os.mkfifo(folder / bundles.CONFIG)


def spoil_device(folder):
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to("/dev/zero")


def spoil_graph(folder):
    shutil.copy(folder / "model_float.onnx", folder / "model.onnx")


def spoil_computation(folder):
    (folder / "factor4.jaxexport").write_bytes(b"nothing of the kind")


def spoil_parameters(folder):
    found = safetensors.numpy.load_file(folder / "model.safetensors")
    found["mask/kernel"] *= np.nan
    (folder / "model.safetensors").write_bytes(safetensors.numpy.save(found))


@pytest.mark.parametrize(
    ("spoil", "backend", "match"),
    [
        (spoil_number, "onnx", "config.json cannot be read (it holds the number 1000000000..."),
        (spoil_format, "onnx", "config.json cannot be read (it is nested too deeply)"),
        (spoil_pipe, "onnx", "config.json cannot be read (it is no regular file)"),
        (spoil_device, "onnx", "model.onnx cannot be read (it is no regular file)"),
        # From here on the checksums are right.
        (spoil_graph, "onnx", "cannot be used (InvalidArgument: "),
        (spoil_computation, "jax", "factor4.jaxexport cannot be loaded"),
        (spoil_parameters, "jax", "gives is not a translation"),
    ],
)
def test_a_bad_one_of_any_kind_concerns_no_other(put, folder, spoil, backend, match):
    put("a-bad", "plum", "fig")
    put("good")
    spoil(folder / "a-bad")
    if match.startswith(("cannot", "factor4", "gives")):
        bundles.write_config(bundles.read(folder / "a-bad", verify=False))
    said = []

    def ready(bundle):  # Loads what the test is about alone.
        return open_bundle(bundle, backend) if bundle.name == "a-bad" else Ready(bundle)

    registry = Registry(folder, ready, note=said.append)
    for _ in range(2):
        found = registry.scan()
        assert list(found.engines) == [("apple", "pear")]
        assert list(found.problems) == ["a-bad"] and match in found.problems["a-bad"]
    assert said == [f"a-bad is not served: {found.problems['a-bad']}"] and "\n" not in said[0]
    put("new", "pear", "apple")
    assert len(registry.scan().engines) == 2


def test_what_nobody_thought_of_is_a_problem_of_its_folder(put, folder):
    put("one")
    put("two", "pear", "apple")
    opened = []

    def ready(bundle):
        opened.append(bundle.name)
        if bundle.size == 13:
            raise ZeroDivisionError("by\nzero")
        return Ready(bundle)

    registry = Registry(folder, ready)
    first = registry.scan()
    put("one", size=13)
    found = registry.scan()
    assert found.engines == first.engines
    assert found.problems["one"].endswith(
        "one cannot be used (ZeroDivisionError: by zero); what was loaded of it before goes on"
    )
    assert opened == ["one", "two", "one"]


def test_a_name_that_is_no_text_is_shown_all_the_same(put, folder):
    name = os.fsdecode(b"caf\xe9\n")
    put(name, broken=True)
    (found,) = Registry(folder, Ready).scan().problems.items()
    assert found[0] == r"caf\udce9\n" and found[1].isprintable()


def test_one_that_is_copied_file_by_file_is_served_when_it_is_whole(put, folder, tmp_path):
    put("one")
    whole = shutil.move(folder / "one", tmp_path / "whole")
    (folder / "one").mkdir()
    registry = Registry(folder, Ready)
    for path in sorted(whole.iterdir()):  # Its config.json comes first, or nearly.
        assert not registry.scan().engines
        shutil.copy(path, folder / "one")
    assert list(registry.scan().engines) == [("apple", "pear")]


def test_what_a_killed_export_left_is_served_again(put, folder):
    put("one")
    (folder / "one").rename(folder / ".one.0a1b2c3d.older")
    said = []
    found = Registry(folder, Ready, note=said.append).scan()
    assert list(found.engines) == [("apple", "pear")]
    assert said == ["one is there again as it was before an export that was killed"]


def test_the_factor_is_one_of_those_that_the_bundle_in_place_now_serves(put, folder, rng):
    put("one")
    registry, batcher = Registry(folder), Batcher()
    service = Service(registry, batcher, budget_milliseconds=1e-6, most_pixels=10**4, seconds=20)
    image = rng.integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    for factors in ([2, 4], [2]):  # The same parameters, and so the same build.
        rewrite(folder / "one", factors=factors)
        engine = registry.scan().engines["apple", "pear"]
        assert service.translate(engine, image).factor == factors[-1]
    batcher.close()


def test_of_two_that_do_the_same_the_first_serves(put, folder):
    put("a", size=64)
    put("b")
    found = Registry(folder, Ready).scan()
    assert found.engines["apple", "pear"].bundle.name == "a"
    assert found.problems == {
        "b": "b leads from apple to pear as a does, which is served; remove one of them"
    }


def test_what_is_no_bundle_is_passed_over(put, folder):
    put("one")
    (folder / "notes").mkdir()
    (folder / "file.txt").write_text("x")
    shutil.copytree(folder / "one", folder / ".hidden")
    found = Registry(folder, Ready).scan()
    assert list(found.engines) == [("apple", "pear")] and not found.problems


def test_a_folder_that_is_not_there_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match="none cannot be read"):
        Registry(tmp_path / "none").scan()


def test_replaced_under_load_no_request_fails(put, folder, rng):
    """Requests go on in threads, with real engines, while the bundle is replaced over and over."""
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
