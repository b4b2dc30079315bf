"""Sets prepared elsewhere with TFDS, by the folder of their version, and ``cycle_gan``."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.damage import damage_picture
from warp_translate import storage
from warp_translate.data import records, tfds_folder
from warp_translate.data.sources import open_domains, open_labelled, open_pairs, prepare
from warp_translate.errors import UserError
from warp_translate.image_io import encode_png, write_image

COUNTS = {"trainA": 3, "trainB": 2, "testA": 1, "testB": 2}


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
    """A prepared set of pairs, moved to another folder."""
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


def test_a_classifier_accepts_both(pairs, domains, images):
    of_pairs = open_labelled("tfds_folder", None, ("left", "right"), root=pairs)
    np.testing.assert_array_equal(of_pairs.train[1][2], images["pairs/train/2"][:, 12:])
    of_domains = open_labelled("tfds_folder", None, ("a", "b"), root=domains)
    np.testing.assert_array_equal(of_domains.train[1][2], images["domains/trainB/2"])


def test_unsuitable_features_are_named(pairs, domains):
    with pytest.raises(UserError, match=r"holds image with .*trainB, but .* needs source and targ"):
        prepare("tfds_folder", None, root=domains)
    with pytest.raises(UserError, match=r"source, target with .* but .* needs image with .*testB"):
        open_domains("tfds_folder", None, root=pairs)


def test_folders_without_a_set_are_refused(tmp_path, pairs):
    with pytest.raises(UserError, match="needs a root"):
        tfds_folder.open_tfds_folder(None)
    with pytest.raises(UserError, match=r"elsewhere/pairs holds no prepared set .*is missing"):
        tfds_folder.open_tfds_folder(pairs.parent)
    with pytest.raises(UserError, match="got direction BtoA; omit it"):
        prepare("tfds_folder", None, root=pairs, direction="BtoA")
    info = json.loads((pairs / "dataset_info.json").read_text())
    (pairs / "checksums.json").unlink()  # Sets of others have none.
    (pairs / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match="as tfrecord, not array_record; prepare it with"):
        tfds_folder.open_tfds_folder(pairs)
    (pairs / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="holds no prepared set"):
        tfds_folder.open_tfds_folder(pairs)


def test_look_reads_every_record_and_names_unreadable_ones(pairs, monkeypatch):
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


class CycleGan(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A set with the name, config, version, splits and features of TFDS's own."""

    name = "cycle_gan"
    VERSION = tfds.core.Version("3.0.0")
    BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="horse2zebra"),)
    counts = COUNTS

    def _info(self):
        features = {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=["A", "B"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.counts}

    def _generate_examples(self, split):
        for i in range(self.counts[split]):
            value = 10 * list(COUNTS).index(split) + i
            image = np.full((4 + i, 6, 3), value, np.uint8)
            yield i, {"image": encode_png(image), "label": split[-1]}


def prepare_cycle_gan(folder, builder=CycleGan):
    builder(
        config="horse2zebra", data_dir=folder, file_format="array_record"
    ).download_and_prepare()


def open_set(folder):
    return open_domains("cycle_gan/horse2zebra", folder)


def test_a_prepared_cycle_gan_is_read(tmp_path):
    prepare_cycle_gan(tmp_path)
    assert (tmp_path / "cycle_gan/horse2zebra/3.0.0/features.json").exists()
    domains = open_set(tmp_path)
    assert not domains.paired_test
    sources = (domains.train_a, domains.train_b, domains.test_a, domains.test_b)
    for number, (source, count) in enumerate(zip(sources, COUNTS.values(), strict=True)):
        assert len(source) == count
        values = sorted(int(image[0, 0, 0]) for image in source)
        assert values == [10 * number + i for i in range(count)]
        assert all(image.dtype == np.uint8 and image.shape[1:] == (6, 3) for image in source)


def test_the_newest_version_is_read(tmp_path):
    prepare_cycle_gan(tmp_path)
    folder = tmp_path / "cycle_gan/horse2zebra"
    (folder / "3.0.0").rename(folder / "10.0.0")
    (folder / "9.0.0").mkdir()
    assert len(open_set(tmp_path).train_a) == 3


def check_error(folder, *parts):
    with pytest.raises(UserError) as error:
        open_set(folder)
    message = str(error.value)
    assert "\n" not in message
    for part in (*parts, "tfds build cycle_gan/horse2zebra --file_format=array_record"):
        assert part in message


def test_a_missing_cycle_gan_is_not_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(
        tfds.core.DatasetBuilder, "download_and_prepare", lambda *_, **__: pytest.fail("download")
    )
    check_error(tmp_path, f"not prepared in {tmp_path}/cycle_gan/horse2zebra")
    (tmp_path / "cycle_gan/horse2zebra/3.0.0").mkdir(parents=True)
    check_error(tmp_path, "cycle_gan/horse2zebra/3.0.0 holds no prepared set")


def test_missing_splits_of_cycle_gan_are_named(tmp_path):
    class Half(CycleGan, skip_registration=True):
        name = "cycle_gan"
        counts: dict[str, int] = {"trainA": 1, "trainB": 1}  # noqa: RUF012

    prepare_cycle_gan(tmp_path, builder=Half)
    check_error(tmp_path, "lacks the splits testA, testB")


def test_a_cycle_gan_in_a_bucket_is_copied_once(bucket, tmp_path, monkeypatch):
    prepare_cycle_gan(tmp_path / "elsewhere")
    storage.put(tmp_path / "elsewhere", storage.to_path(f"{bucket}/sets"))
    values = sorted(int(image[0, 0, 0]) for image in open_set(f"{bucket}/sets").train_a)
    assert values == [0, 1, 2]
    monkeypatch.setattr(storage, "fetch", None)
    assert len(open_set(f"{bucket}/sets").test_b) == 2
    with pytest.raises(UserError, match=f"horse2zebra is not prepared in {bucket}/none"):
        open_set(f"{bucket}/none")
