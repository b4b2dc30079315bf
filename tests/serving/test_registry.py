import itertools
import json
import shutil
import threading

import numpy as np
import pytest

from warp_translate.errors import UserError
from warp_translate.serving import bundle as bundles
from warp_translate.serving.registry import Registry


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
            path = partial / bundles.CONFIG
            changed = {"name": name, "source": source, "target": target, "size": size}
            path.write_text(json.dumps(json.loads(path.read_text()) | changed))
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
