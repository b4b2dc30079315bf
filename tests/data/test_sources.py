import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorflow_datasets.core import constants

from warp_translate import storage
from warp_translate.data import folder_preparation, paired_folder
from warp_translate.data.sources import open_pairs, prepare
from warp_translate.errors import UserError
from warp_translate.image_io import write_image


@pytest.fixture
def root(tmp_path, rng):
    """Three strips and no test split."""
    (tmp_path / "root" / "train").mkdir(parents=True)
    for i in range(3):
        image = rng.integers(0, 256, (4, 8, 3), dtype=np.uint8)
        write_image(tmp_path / "root" / "train" / f"{i}.png", image)
    return tmp_path / "root"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("openmoji_gendr", "did you mean openmoji_gender?"),
        ("paired-folder", "did you mean paired_folder?"),
        ("zzz", "use one of openmoji_gender, paired_folder"),
    ],
)
def test_unknown_name(tmp_path, name, hint):
    with pytest.raises(UserError) as error:
        prepare(name, tmp_path)
    assert repr(name) in str(error.value) and hint in str(error.value)


def test_arguments_of_the_other_set_are_refused(tmp_path, root):
    with pytest.raises(UserError, match="needs a size"):
        prepare("openmoji_gender", tmp_path)
    with pytest.raises(UserError, match="takes no root"):
        prepare("openmoji_gender", tmp_path, size=32, root=root)
    with pytest.raises(UserError, match="needs a root"):
        prepare("paired_folder", tmp_path)
    with pytest.raises(UserError, match="size 32"):
        prepare("paired_folder", tmp_path, size=32, root=root)


def test_default_data_dir(root, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DATA_DIR", tmp_path / "default")
    builder = prepare("paired_folder", None, root=root)
    assert builder.data_dir.startswith(str(tmp_path / "default"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    builder = prepare("paired_folder", "~/sets", root=root)
    assert builder.data_dir.startswith(str(tmp_path / "home" / "sets"))


def test_open_pairs(root, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="absl"):
        builder = prepare("paired_folder", tmp_path / "data", root=root)
    assert "1 of its 3 pairs are held out" in caplog.text
    pairs = open_pairs(builder, "train")
    assert len(pairs) == 2 and len(open_pairs(builder, "test")) == 1
    assert set(pairs[1]) == {"source", "target"}
    assert len(list(pairs)) == 2  # Ends with IndexError, as sequences do.
    for index in (-1, 2):
        with pytest.raises(IndexError, match=str(index)):
            pairs[index]
    with pytest.raises(UserError, match=r"no split 'val'; use one of test, train"):
        open_pairs(builder, "val")


@pytest.mark.parametrize("left", [(), ("features.json",)])
def test_what_is_left_of_a_prepared_set_is_not_taken_for_whole(root, tmp_path, left):
    builder = prepare("paired_folder", tmp_path / "data", root=root)
    for path in Path(builder.data_dir).iterdir():
        if path.name not in left:
            path.unlink()
    message = r"what was prepared of paired_folder in .*data is damaged \(.*dataset_info\.json"
    with pytest.raises(UserError, match=message):
        prepare("paired_folder", tmp_path / "data", root=root)
    shutil.rmtree(tmp_path / "data/paired_folder")
    assert set(prepare("paired_folder", tmp_path / "data", root=root).info.splits) == {
        "train",
        "test",
    }


def test_of_a_bucket_the_damaged_copy_is_named_as_well(root, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    copies = storage.cached("gs://bucket/sets")
    builder = prepare("paired_folder", copies, root=root)
    (Path(builder.data_dir) / "dataset_info.json").unlink()
    with pytest.raises(UserError, match=f"remove paired_folder in {copies} and in gs://bucket/se"):
        prepare("paired_folder", "gs://bucket/sets", root=root)


def test_prepares_without_a_word(root, tmp_path, capfd, caplog):
    (root / "test").mkdir()
    os.rename(root / "train" / "0.png", root / "test" / "0.png")
    prepare("paired_folder", tmp_path / "data", root=root)
    prepare("paired_folder", tmp_path / "data", root=root)
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""
    assert not caplog.records


def test_unwritable_data_dir(root, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be prepared in") as error:
        prepare("paired_folder", tmp_path / "file", root=root)
    assert "\n" not in str(error.value)


def test_the_slower_of_two_uses_the_result_of_the_faster(root, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_preparation, "_PATIENCE", 0.0)
    load_pair = paired_folder.load_pair

    def overtaken(files, direction):
        # Another process prepares the same set while this one reads its first pair.
        monkeypatch.setattr(paired_folder, "load_pair", load_pair)
        prepare("paired_folder", tmp_path / "data", root=root)
        return load_pair(files, direction)

    monkeypatch.setattr(paired_folder, "load_pair", overtaken)
    monkeypatch.setattr(folder_preparation, "allowed_cores", lambda: 1)
    builder = prepare("paired_folder", tmp_path / "data", root=root)
    assert builder.is_prepared()
    assert len(open_pairs(builder, "train")) == 2
    assert not list((tmp_path / "data").rglob("*unfinished*"))


def test_overtaken_just_before_it_starts(root, tmp_path, monkeypatch):
    plan = folder_preparation.plan

    def overtaken(builder):
        monkeypatch.setattr(folder_preparation, "plan", plan)
        prepare("paired_folder", tmp_path / "data", root=root)
        return plan(builder)

    monkeypatch.setattr(folder_preparation, "plan", overtaken)
    builder = prepare("paired_folder", tmp_path / "data", root=root)
    assert len(open_pairs(builder, "train")) == 2
    assert not list((tmp_path / "data").rglob("*unfinished*"))


def test_a_set_in_a_bucket_is_prepared_once_for_all_machines(root, bucket, tmp_path, monkeypatch):
    storage.put(root, storage.to_path(f"{bucket}/pairs"))
    first = prepare("paired_folder", f"{bucket}/sets", root=f"{bucket}/pairs")
    expected = list(open_pairs(first, "train"))
    place = storage.to_path(f"{bucket}/sets/paired_folder")
    assert any(name.endswith("dataset_info.json") for name in storage.files_below(place))

    # Another machine has no copy yet.
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(folder_preparation, "plan", None)
    other = prepare("paired_folder", f"{bucket}/sets", root=f"{bucket}/pairs")
    found = list(open_pairs(other, "train"))
    assert len(found) == 2
    for pair, again in zip(expected, found, strict=True):
        assert all(np.array_equal(pair[name], again[name]) for name in ("source", "target"))
    monkeypatch.setattr(storage, "put", None)
    assert prepare("paired_folder", f"{bucket}/sets", root=f"{bucket}/pairs").is_prepared()


def test_a_list_in_a_bucket_is_of_the_pictures_beside_it(root, bucket, tmp_path):
    pictures = root / "train"
    lines = [f"{path.name},{path.name}" for path in sorted(pictures.iterdir())]
    (pictures / "list.csv").write_text("\n".join(["source,target", *lines]))
    storage.put(pictures, storage.to_path(f"{bucket}/pairs"))
    builder = prepare("paired_folder", tmp_path / "data", root=f"{bucket}/pairs/list.csv")
    assert len(open_pairs(builder, "train")) + len(open_pairs(builder, "test")) == 3


SCRIPT = """
import sys
from warp_translate.data.augment import EvalCrop
from warp_translate.data.pipeline import eval_batches
from warp_translate.data.sources import open_pairs, prepare
builder = prepare("paired_folder", sys.argv[1], root=sys.argv[2])
pairs = open_pairs(builder, "train")
print(sum(len(b["source"]) for b in eval_batches(pairs, EvalCrop(4), batch_size=2)))
assert "tensorflow" not in sys.modules
"""


def test_processes_that_prepare_at_once_in_plain_scripts(root, tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "data"), str(root)]
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for run in runs:
        out, err = run.communicate(timeout=120)
        assert run.returncode == 0, err
        assert out.strip() == "2"
    assert not list((tmp_path / "data").rglob("*unfinished*"))


@pytest.mark.parametrize("name", ["d [v2]", "a*?b", "back\\slash"])
def test_the_folder_of_prepared_sets_may_have_any_name(tmp_path, root, name):
    for _ in range(2):
        builder = prepare("paired_folder", tmp_path / name, root=root)
        # One of the three strips is held out.
        assert [len(builder.as_data_source(split)) for split in ("train", "test")] == [2, 1]
