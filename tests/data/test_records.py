"""Records whose bytes are damaged on the disk: named, retried, passed over, counted."""

import contextlib
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.damage import damage_picture
from warp_translate.data import pipeline, records
from warp_translate.data.records import Skipped, Skipping, UnreadableRecord
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
def test_a_flipped_bit_of_what_describes_a_set_is_told(prepared, tmp_path, name):
    path = Path(prepared.data_dir) / name
    whole = path.read_bytes()
    for place in range(0, len(whole), len(whole) // 20):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 7
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"what was prepared of paired_folder in .* is damaged"):
            prepare("paired_folder", tmp_path / "sets", root=tmp_path / "root")
        with pytest.raises(UserError, match=rf"{path.parent}.*(is damaged|holds no prepared set)"):
            open_tfds_folder(path.parent)
    path.write_bytes(whole)
    prepare("paired_folder", tmp_path / "sets", root=tmp_path / "root")


@pytest.mark.full
def test_no_flipped_bit_of_a_shard_changes_a_picture(prepared, monkeypatch):
    """array_record has checksums of every record, and finds none where its index is damaged."""
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


def test_training_goes_on_with_the_record_behind_it_and_tells_once(prepared, monkeypatch):
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


def test_batches_are_the_same_again_where_a_record_is_damaged(prepared, monkeypatch):
    monkeypatch.setattr(records, "_SECONDS_BEFORE_RETRY", 0.0)
    damage(prepared, "train", 20)

    def batches(start):
        source = Skipping(open_pairs(prepared, "train"), Skipped())
        read = pipeline.train_batches(
            source, lambda pair, _: pair, global_batch=4, seed=1, start_step=start
        )
        return [next(read)["source"] for _ in range(12 - start)]

    np.testing.assert_array_equal(batches(0)[5:], batches(5))


def test_a_set_whose_file_is_gone_is_given_up(prepared, monkeypatch):
    monkeypatch.setattr(records, "_SECONDS_BEFORE_RETRY", 0.0)
    shard(prepared, "train").unlink()
    pairs = Skipping(open_pairs(prepared, "train"), Skipped())
    with pytest.raises(UserError, match=r"2 of the 40 records .* No such file .*is prepared anew"):
        pairs[7]


def test_evaluation_never_counts_another_picture_in_place_of_one(prepared, monkeypatch):
    monkeypatch.setattr(records, "_SECONDS_BEFORE_RETRY", 0.0)
    damage(prepared, "test", 0)
    with pytest.raises(UnreadableRecord, match="split test"):
        list(pipeline.eval_batches(open_pairs(prepared, "test"), lambda pair: pair, batch_size=1))


class Slow:
    """Records of which one is not there at first, as on a file system that answers late."""

    split = "train"

    def __init__(self):
        self.asked = 0

    def __getitem__(self, number):
        self.asked += 1
        if self.asked == 1:
            raise OSError("Stale file handle")
        return {"number": number}


def test_what_fails_once_is_read_again(monkeypatch):
    monkeypatch.setattr(records, "_SECONDS_BEFORE_RETRY", 0.0)
    assert records.read_record(Slow(), 3) == {"number": 3}


def test_many_threads_count_a_record_once():
    """One of 300 that 8 threads ask for at the same time."""
    barrier = threading.Barrier(8)

    class Source:
        def __len__(self):
            return 300

        def __getitem__(self, number):
            if number == 5:
                barrier.wait(10)
                raise UnreadableRecord("record 5 is damaged", "mend it")
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


def test_news_of_many_are_short():
    skipped = Skipped()
    for number in range(7):
        skipped.add(f"record {number}")
    assert skipped.news() == ["record 0", "and 6 more records cannot be read"]
