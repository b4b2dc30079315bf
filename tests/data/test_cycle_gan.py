import numpy as np
import pytest
import tensorflow_datasets as tfds

from warp_translate import storage
from warp_translate.data.domains import open_domains
from warp_translate.errors import UserError
from warp_translate.image_io import encode_png

COUNTS = {"trainA": 3, "trainB": 2, "testA": 1, "testB": 2}


class CycleGan(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Has the name, config, version, splits and features of TFDS's own."""

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


def prepare(folder, file_format="array_record", builder=CycleGan):
    builder(config="horse2zebra", data_dir=folder, file_format=file_format).download_and_prepare()


def open_set(folder):
    return open_domains("cycle_gan/horse2zebra", folder)


def test_a_prepared_set_is_read(tmp_path):
    prepare(tmp_path)
    assert (tmp_path / "cycle_gan/horse2zebra/3.0.0/features.json").exists()
    domains = open_set(tmp_path)
    assert not domains.paired_test
    sources = (domains.train_a, domains.train_b, domains.test_a, domains.test_b)
    for number, (source, count) in enumerate(zip(sources, COUNTS.values(), strict=True)):
        assert len(source) == count
        values = sorted(int(image[0, 0, 0]) for image in source)
        assert values == [10 * number + i for i in range(count)]
        assert all(image.dtype == np.uint8 and image.shape[1:] == (6, 3) for image in source)


def test_the_newest_version_is_taken(tmp_path):
    prepare(tmp_path)
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


def test_what_is_not_prepared_is_never_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(
        tfds.core.DatasetBuilder, "download_and_prepare", lambda *_, **__: pytest.fail("download")
    )
    check_error(tmp_path, f"not prepared in {tmp_path}/cycle_gan/horse2zebra")
    (tmp_path / "cycle_gan/horse2zebra/3.0.0").mkdir(parents=True)
    check_error(tmp_path, "cycle_gan/horse2zebra/3.0.0 holds no prepared set")


def test_another_format_is_refused(tmp_path):
    prepare(tmp_path)
    info = tmp_path / "cycle_gan/horse2zebra/3.0.0/dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    check_error(tmp_path, "3.0.0 was prepared as tfrecord, not array_record")


def test_missing_splits_are_named(tmp_path):
    class Half(CycleGan, skip_registration=True):
        name = "cycle_gan"
        counts: dict[str, int] = {"trainA": 1, "trainB": 1}  # noqa: RUF012

    prepare(tmp_path, builder=Half)
    check_error(tmp_path, "lacks the splits testA, testB")


def test_a_set_in_a_bucket_is_copied_once(bucket, tmp_path, monkeypatch):
    prepare(tmp_path / "elsewhere")
    storage.put(tmp_path / "elsewhere", storage.to_path(f"{bucket}/sets"))
    values = sorted(int(image[0, 0, 0]) for image in open_set(f"{bucket}/sets").train_a)
    assert values == [0, 1, 2]
    monkeypatch.setattr(storage, "fetch", None)
    assert len(open_set(f"{bucket}/sets").test_b) == 2
    with pytest.raises(UserError, match=f"horse2zebra is not prepared in {bucket}/none"):
        open_set(f"{bucket}/none")
