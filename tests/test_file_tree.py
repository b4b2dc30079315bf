"""Folders with links, as in data sets assembled by users."""

import os

import pytest

from warp_translate.file_tree import files, identity, walk
from warp_translate.image_io import list_images


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "root"
    for name in ("root/a/1.png", "root/2.png", "root/.git/3.png", "elsewhere/deep/4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return root


def names(root, **how):
    return sorted(os.path.relpath(entry.path, root) for entry in files(root, **how))


def test_links_are_followed_wherever_they_lead(root, tmp_path):
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "c").symlink_to("a")
    (root / "5.png").symlink_to("a/1.png")
    (tmp_path / "link").symlink_to("root")
    assert names(root) == ["2.png", "5.png", "a/1.png", "b/deep/4.png", "c/1.png"]
    assert names(tmp_path / "link") == names(root)
    assert names(root, recursive=False) == ["2.png", "5.png"]
    assert [path.name for path in list_images(root, recursive=True)] == [
        *("2.png", "5.png", "1.png", "4.png", "1.png")
    ]


def test_a_walk_of_loops_ends(root):
    (root / "a/up").symlink_to("..")
    (root / "a/self").symlink_to("self")
    (root / "b").mkdir()
    (root / "b/to_a").symlink_to("../a")
    (root / "a/to_b").symlink_to("../b")
    assert names(root) == ["2.png", "a/1.png", "a/self", "b/to_a/1.png", "b/to_a/self"]


def test_mutual_links_take_linear_time(tmp_path):
    count = 30
    for number in range(count):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}/x.png").touch()
        for other in range(count):
            (tmp_path / f"{number}/to{other}").symlink_to(f"../{other}")
    assert count < len(names(tmp_path)) <= 2 * count


def test_once_lists_each_folder_under_its_own_name_first(root, tmp_path):
    (root / "0").symlink_to("a")
    (root / "x").symlink_to(tmp_path / "elsewhere")
    (root / "y").symlink_to(tmp_path / "elsewhere")
    (root / "out").mkdir()
    (root / "out/5.png").touch()
    found = {
        os.path.relpath(entry.path, root): kind
        for entry, kind in walk(root, once=True, skip=identity(root / "out"))
    }
    assert found == {
        **{"2.png": "file", "a/1.png": "file", "x/deep/4.png": "file"},
        **{"0": "repeated", "y": "repeated"},
    }


def test_broken_links_are_files_and_pipes_are_not(root):
    (root / "gone.png").symlink_to("nowhere")
    os.mkfifo(root / "pipe.png")
    assert names(root) == ["2.png", "a/1.png", "gone.png"]
    kinds = {entry.name: kind for entry, kind in walk(root, recursive=False)}
    assert kinds == {"2.png": "file", "gone.png": "broken", "pipe.png": "other", "a": "folder"}
