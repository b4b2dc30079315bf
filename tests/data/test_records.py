"""Damaged records are named, retried, skipped and counted."""

import contextlib
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.damage import damage_picture
from warp_translate.data import pipeline, records
from warp_translate.data.records import PreparedImages, Skipped, Skipping, UnreadableRecord
from warp_translate.data.sources import open_pairs, prepare
from warp_translate.data.tfds_folder import open_tfds_folder
from warp_translate.errors import UserError
from warp_translate.image_io import write_image


@pytest.fixture
def prepared(tmp_path, rng):
    """Forty pairs, prepared."""
    for split, count in (("train", 40), ("test", 2)):
        (tmp_path / "root" / split).mkdir(parents=True)
        for i in range(count):
            strip = rng.integers(0, 256, (16, 32, 3), dtype=np.uint8)
            write_image(tmp_path / "root" / split / f"{i:02d}.png", strip)
    return prepare("paired_folder", tmp_path / "sets", root=tmp_path / "root")


def shard(builder, split):
    (path,) = Path(builder.data_dir).glob(f"*-{split}.array_record*")
    return path


def damage(builder, split, number):
    damage_picture(shard(builder, split), number)


def test_a_damaged_record_is_named_with_its_set_and_the_others_are_read(prepared):
    damage(prepared, "train", 15)
    pairs = open_pairs(prepared, "train")
    unreadable = []
    for number in range(len(pairs)):
        try:
            pairs[number]
        except UnreadableRecord as error:
            unreadable.append(number)
            assert f"record {number} of paired_folder/" in str(error)
            assert "split train, cannot be read (" in str(error)
            assert f"remove {prepared.data_dir}" in str(error)
    assert len(unreadable) == 1


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "checksums.json"])
def test_a_flipped_bit_in_the_description_of_a_set_is_an_error(prepared, tmp_path, name):
    path = Path(prepared.data_dir) / name
    whole = path.read_bytes()
    for place in range(0, len(whole), len(whole) // 20):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 7
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"the prepared set paired_folder in .* is damaged"):
            prepare("paired_folder", tmp_path / "sets", root=tmp_path / "root")
        with pytest.raises(UserError, match=rf"{path.parent}.*(is damaged|holds no prepared set)"):
            open_tfds_folder(path.parent)
    path.write_bytes(whole)
    prepare("paired_folder", tmp_path / "sets", root=tmp_path / "root")


@pytest.mark.full
def test_no_flipped_bit_of_a_shard_changes_an_image(prepared, monkeypatch):
    """array_record has checksums of every record; a damaged index makes records missing."""
    monkeypatch.setattr(records, "_SECONDS_BEFORE_RETRY", 0.0)
    pairs = open_pairs(prepared, "test")
    truth = [pairs[number]["target"] for number in range(2)]
    path = shard(prepared, "test")
    whole = path.read_bytes()
    used = [place for place, byte in enumerate(whole) if byte]
    for place in np.random.default_rng(0).choice(used, 400, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(place) % 8
        path.write_bytes(damaged)
        pairs = open_pairs(prepared, "test")
        for number in range(2):
            with contextlib.suppress(UnreadableRecord):
                np.testing.assert_array_equal(pairs[number]["target"], truth[number])


def test_training_substitutes_the_next_record_and_reports_once(prepared, monkeypatch):
    monkeypatch.setattr(records, "_SECONDS_BEFORE_RETRY", 0.0)
    whole = open_pairs(prepared, "train")
    expected = [whole[number]["source"] for number in range(len(whole))]
    damage(prepared, "train", 15)
    skipped = Skipped()
    pairs = Skipping(open_pairs(prepared, "train"), skipped)
    assert len(pairs) == len(expected) and skipped.counts() == {} and skipped.news() == []
    found = [pairs[number]["source"] for number in (*range(40), *range(40))][40:]
    other = [i for i in range(40) if not np.array_equal(found[i], expected[i])]
    assert len(other) == 1
    np.testing.assert_array_equal(found[other[0]], expected[(other[0] + 1) % 40])
    assert skipped.counts() == {"data/skipped": 1.0}
    (line,) = skipped.news()
    assert f"record {other[0]} of paired_folder" in line and "takes its place" in line
    assert skipped.news() == []


def test_resumed_batches_are_the_same_in_spite_of_a_damaged_record(prepared, monkeypatch):
    monkeypatch.setattr(records, "_SECONDS_BEFORE_RETRY", 0.0)
    damage(prepared, "train", 20)

    def batches(start):
        source = Skipping(open_pairs(prepared, "train"), Skipped())
        read = pipeline.train_batches(
            source, lambda pair, _: pair, global_batch=4, seed=1, start_step=start
        )
        return [next(read)["source"] for _ in range(12 - start)]

    np.testing.assert_array_equal(batches(0)[5:], batches(5))


def test_a_missing_file_of_a_set_is_an_error(prepared, monkeypatch):
    monkeypatch.setattr(records, "_SECONDS_BEFORE_RETRY", 0.0)
    shard(prepared, "train").unlink()
    pairs = Skipping(open_pairs(prepared, "train"), Skipped())
    with pytest.raises(
        UserError, match=r"2 of the 40 records .* No such file .*prepare the set anew"
    ):
        pairs[7]


def test_evaluation_never_substitutes_a_record(prepared, monkeypatch):
    monkeypatch.setattr(records, "_SECONDS_BEFORE_RETRY", 0.0)
    damage(prepared, "test", 0)
    with pytest.raises(UnreadableRecord, match="split test"):
        list(pipeline.eval_batches(open_pairs(prepared, "test"), lambda pair: pair, batch_size=1))


class Slow:
    """Records that fail once, as on a slow file system."""

    split = "train"

    def __init__(self):
        self.asked = 0

    def __getitem__(self, number):
        self.asked += 1
        if self.asked == 1:
            raise OSError("Stale file handle")
        return {"number": number}


def test_a_record_that_fails_once_is_retried(monkeypatch):
    monkeypatch.setattr(records, "_SECONDS_BEFORE_RETRY", 0.0)
    assert records.read_record(Slow(), 3) == {"number": 3}


def test_many_threads_count_a_record_once():
    """8 threads read one of 300 records at the same time."""
    barrier = threading.Barrier(8)

    class Source:
        def __len__(self):
            return 300

        def __getitem__(self, number):
            if number == 5:
                barrier.wait(10)
                raise UnreadableRecord("record 5 is damaged", "fix it")
            return number

    skipped = Skipped()
    source = Skipping(Source(), skipped)
    found = []
    threads = [threading.Thread(target=lambda: found.append(source[5])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [6] * 8 and skipped.counts() == {"data/skipped": 1.0}


def test_many_skipped_records_are_reported_in_two_lines():
    skipped = Skipped()
    for number in range(7):
        skipped.add(f"record {number}")
    assert skipped.news() == ["record 0", "and 6 more records cannot be read"]


def test_images_are_the_chosen_records_in_the_chosen_order():
    found = [{"left": np.full(3, i), "right": np.full(3, -i)} for i in range(5)]
    images = PreparedImages(found, "right", [3, 0, 4])
    assert len(images) == 3
    assert [int(image[0]) for image in images] == [-3, 0, -4]  # Ends with IndexError.
    for index in (-1, 3):
        with pytest.raises(IndexError, match=f"{index} is not within the 3"):
            images[index]
