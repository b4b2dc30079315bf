"""Sets that were prepared with TFDS, elsewhere and by others, by the folder of their version."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.damage import damage_picture
from warp_translate.data import records, tfds_folder
from warp_translate.data.domains import open_domains
from warp_translate.data.labelled import open_labelled
from warp_translate.data.sources import open_pairs, prepare
from warp_translate.errors import UserError
from warp_translate.image_io import write_image


@pytest.fixture
def images(tmp_path, rng):
    """Strips and two domains in one folder; pixels by name."""
    found = {}
    for folder, count, width in (
        *(("pairs/train", 5, 24), ("pairs/test", 2, 24), ("domains/trainA", 4, 10)),
        *(("domains/trainB", 3, 9), ("domains/testA", 2, 8), ("domains/testB", 1, 8)),
    ):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (11, width, 3), dtype=np.uint8)
            write_image(tmp_path / folder / f"{i}.png", pixels)
            found[f"{folder}/{i}"] = pixels
    return found


@pytest.fixture
def pairs(tmp_path, images):
    """A prepared set of pairs that was carried to another place."""
    made = prepare("paired_folder", tmp_path / "sets", root=tmp_path / "pairs")
    return Path(shutil.copytree(made.data_dir, tmp_path / "elsewhere/pairs/1.2.0"))


@pytest.fixture
def domains(tmp_path, images):
    open_domains("unpaired_folder", tmp_path / "sets", root=tmp_path / "domains")
    (made,) = (tmp_path / "sets/unpaired_folder").glob("*/1.1.0")
    return Path(shutil.copytree(made, tmp_path / "elsewhere/domains/1.1.0"))


def test_pairs_are_read_as_they_were_prepared(pairs, images):
    builder = prepare("tfds_folder", None, root=pairs)
    found = open_pairs(builder, "train")
    assert len(found) == 5
    for i in range(5):
        strip = images[f"pairs/train/{i}"]
        np.testing.assert_array_equal(found[i]["source"], strip[:, :12])
        np.testing.assert_array_equal(found[i]["target"], strip[:, 12:])


def test_domains_are_read_as_they_were_prepared(domains, images):
    found = open_domains("tfds_folder", None, root=domains)
    assert [len(each) for each in (found.train_a, found.train_b)] == [4, 3]
    np.testing.assert_array_equal(found.test_a[1], images["domains/testA/1"])
    assert not found.paired_test


def test_a_classifier_takes_either(pairs, domains, images):
    of_pairs = open_labelled("tfds_folder", None, ("left", "right"), root=pairs)
    np.testing.assert_array_equal(of_pairs.train[1][2], images["pairs/train/2"][:, 12:])
    of_domains = open_labelled("tfds_folder", None, ("a", "b"), root=domains)
    np.testing.assert_array_equal(of_domains.train[1][2], images["domains/trainB/2"])


def test_the_wrong_training_is_told_what_there_is_and_what_it_needs(pairs, domains):
    with pytest.raises(UserError, match=r"holds image with .*trainB, but .* needs source and targ"):
        prepare("tfds_folder", None, root=domains)
    with pytest.raises(UserError, match=r"source, target with .* but .* needs image with .*testB"):
        open_domains("tfds_folder", None, root=pairs)


def test_folders_that_hold_no_set_are_named(tmp_path, pairs):
    with pytest.raises(UserError, match="needs a root"):
        tfds_folder.open_tfds_folder(None)
    with pytest.raises(UserError, match=r"elsewhere/pairs holds no prepared set .*is missing"):
        tfds_folder.open_tfds_folder(pairs.parent)
    with pytest.raises(UserError, match="got direction BtoA; leave it out"):
        prepare("tfds_folder", None, root=pairs, direction="BtoA")
    info = json.loads((pairs / "dataset_info.json").read_text())
    (pairs / "checksums.json").unlink()  # A set of somebody else has none.
    (pairs / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match="as tfrecord, not array_record; prepare it with"):
        tfds_folder.open_tfds_folder(pairs)
    (pairs / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="holds no prepared set"):
        tfds_folder.open_tfds_folder(pairs)


def test_looking_reads_every_record_and_names_what_is_lost(pairs, monkeypatch):
    monkeypatch.setattr(records, "_SECONDS_BEFORE_RETRY", 0.0)
    (shard,) = pairs.glob("*-train.array_record*")
    damage_picture(shard, 4)
    done = []
    test, train = tfds_folder.look(tfds_folder.open_tfds_folder(pairs), done.append, most_named=3)
    assert (test.name, test.records, test.lost, test.unreadable) == ("test", 2, 0, ())
    assert test.widths == (12, 12, 12) and test.heights == (11, 11, 11)
    assert (train.name, train.records, train.lost) == ("train", 5, 1)
    assert "cannot be read (" in train.unreadable[0]
    assert len(done) == 7
