import errno
import fcntl
import os

import numpy as np
import pytest

from warp_translate.data import shards
from warp_translate.data.builders import UnpairedFolder, folder_config
from warp_translate.data.folders import Layout
from warp_translate.data.shards import Shard
from warp_translate.errors import UserError

FIRST = Shard("train", 0, 2, "set-train.array_record-00000-of-00002", "11")
SECOND = Shard("train", 2, 5, "set-train.array_record-00001-of-00002", "22")
BOTH = (FIRST, SECOND)


@pytest.fixture
def plan(tmp_path):
    def plan_of(names, split="trainA"):
        layout = Layout(tmp_path, {split: tuple((tmp_path / name,) for name in names)}, False)
        config = folder_config(layout)
        builder = UnpairedFolder(config=config, data_dir=tmp_path, file_format="array_record")
        return shards.plan(builder)

    return plan_of


@pytest.fixture
def names(tmp_path):
    """Sparse files of megabytes."""
    found = []
    for number, size in enumerate(np.random.default_rng(0).integers(1, 8 << 20, 1000)):
        found.append(f"{number:04}.png")
        with open(tmp_path / found[-1], "wb") as file:
            file.truncate(int(size))
    return found


def test_shards_hold_all_examples_in_order_and_similar_sizes(plan, names, tmp_path):
    found = plan(names)
    assert [shard.start for shard in found] == [0, *(shard.stop for shard in found[:-1])]
    assert found[-1].stop == len(names)
    assert [shard.name for shard in found] == [
        f"unpaired_folder-trainA.array_record-{number:05}-of-{len(found):05}"
        for number in range(len(found))
    ]
    sizes = [
        sum((tmp_path / name).stat().st_size for name in names[shard.start : shard.stop])
        for shard in found
    ]
    assert all(size > 60 << 20 for size in sizes[:-1]) and max(sizes) < 520 << 20
    assert 120 << 20 < np.mean(sizes) < 280 << 20


def test_tiny_files_make_shards_of_some_thousands(plan, tmp_path):
    (tmp_path / "0.png").touch()
    names = ["0.png"] * 34_000
    assert max(map(len, plan(names))) < 33_000
    assert len(plan(names[:4000])) == 1


@pytest.mark.parametrize("place", [0, 500, 999])
def test_a_removed_or_new_file_changes_the_shards_around_it_only(plan, names, place):
    before = {shard.key for shard in plan(names)}
    after = {shard.key for shard in plan(names[:place] + names[place + 1 :])}
    assert 1 <= len(before - after) <= 3 and len(after - before) <= 3
    assert len(before & after) >= len(before) - 3


def test_a_changed_file_changes_one_shard_and_the_split_does_not_matter(plan, names, tmp_path):
    before = {shard.key for shard in plan(names)}
    assert {shard.key for shard in plan(names, "testB")} == before
    path = tmp_path / names[500]
    path.write_bytes(path.read_bytes())
    after = {shard.key for shard in plan(names)}
    assert len(before - after) == 1
    path.unlink()
    with pytest.raises(UserError, match=r"0500\.png vanished"):
        plan(names)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "set/config/1.0.0"


def write(work, shard, text):
    part = work.begin(shard)
    part.write_text(text)
    work.keep(shard, part, 10 * len(shard))


def finish(work):
    work.finish(lambda folder: (folder / "dataset_info.json").write_text("{}"))


def test_a_set_gets_its_name_when_it_is_complete(place):
    with shards.opened(place, BOTH) as work:
        write(work, SECOND, "two")
    assert not place.exists()
    with shards.opened(place, BOTH) as work:
        assert list(work.finished()) == [SECOND.name]
        write(work, FIRST, "one")
        found = work.finished()
        assert [found[shard.name].examples for shard in BOTH] == [2, 3]
        assert [found[shard.name].bytes for shard in BOTH] == [20, 30]
        finish(work)
    assert [path.name for path in place.parent.iterdir()] == ["1.0.0"]
    texts = {path.name: path.read_text() for path in place.iterdir()}
    assert texts == {FIRST.name: "one", SECOND.name: "two", "dataset_info.json": "{}"}


def test_no_file_remains_if_no_shard_is_finished(place, tmp_path):
    with pytest.raises(KeyError), shards.opened(place, BOTH) as work:
        work.begin(FIRST).write_text("half")
        raise KeyError
    assert not (tmp_path / "set/config").exists()


@pytest.mark.parametrize("change", ["longer", "gone", "key", "record"])
def test_a_shard_that_contradicts_its_record_is_not_finished(place, change):
    with shards.opened(place, BOTH) as work:
        write(work, FIRST, "one")
    file = place.parent / f"unfinished/1.0.0/{FIRST.name}"
    record = place.parent / f"unfinished/{FIRST.name}.json"
    if change == "longer":
        file.write_text("more")
    elif change == "gone":
        file.unlink()
    elif change == "key":
        record.write_text(record.read_text().replace("11", "12"))
    else:
        record.write_text(record.read_text()[:-3])
    with shards.opened(place, BOTH) as work:
        assert not work.finished()


def test_living_owners_are_counted_and_dead_ones_removed(place):
    with shards.opened(place, BOTH) as mine, shards.opened(place, BOTH) as other:
        part = other.begin(FIRST)
        part.write_text("half")
        assert mine.others() == {(FIRST.name, other.owner): 4} and not other.others()
        dead = part.with_name(f"{SECOND.name}.00ff.part")
        dead.touch()
        dead.with_name("00ff.owner").touch()
        assert len(mine.others()) == 1 and part.exists()
        assert not dead.exists() and not dead.with_name("00ff.owner").exists()


def test_without_locks_every_owner_counts_as_living(place, monkeypatch):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with shards.opened(place, BOTH) as work:
        for name in (f"{FIRST.name}.00ff.part", "00ff.owner"):
            (place.parent / "unfinished" / name).touch()
        assert list(work.others()) == [(FIRST.name, "00ff")]
        write(work, FIRST, "one")
        write(work, SECOND, "two")
        finish(work)
    assert [path.name for path in place.parent.iterdir()] == ["1.0.0"]


def test_one_of_two_processes_finishes_the_set(place):
    with shards.opened(place, BOTH) as mine, shards.opened(place, BOTH) as other:
        write(mine, FIRST, "one")
        write(other, SECOND, "two")
        assert len(mine.finished()) == len(other.finished()) == 2
        finish(mine)
        with pytest.raises(OSError):
            finish(other)
    assert sorted(path.name for path in place.iterdir()) == sorted(
        ["dataset_info.json", FIRST.name, SECOND.name]
    )


@pytest.mark.parametrize("links", [True, False])
def test_equal_shards_of_an_earlier_state_are_taken_over(place, monkeypatch, links):
    earlier = place.parent.with_name("earlier") / "1.0.0"
    moved = Shard("train", 5, 7, "set-train.array_record-00004-of-00007", FIRST.key)
    with shards.opened(earlier, (moved,)) as work:
        write(work, moved, "one")
    if not links:

        def refuse(*args):
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    with shards.opened(place, BOTH) as work, shards.opened(earlier, (moved,)):
        work.take_over()
        assert list(work.finished()) == [FIRST.name]
        write(work, SECOND, "two")
        finish(work)
        assert earlier.parent.exists()  # Another process works there.
    assert (place / FIRST.name).read_text() == "one"


def test_an_earlier_state_is_removed_after_its_use(place):
    earlier = place.parent.with_name("earlier") / "1.0.0"
    with shards.opened(earlier, (FIRST,)) as work:
        write(work, FIRST, "one")
    with shards.opened(place, (FIRST,)) as work:
        work.take_over()
        finish(work)
    assert [path.name for path in place.parent.parent.iterdir()] == ["config"]


def test_shards_of_another_release_are_not_in_the_set(place):
    with shards.opened(place, (FIRST,)) as work:
        write(work, FIRST, "one")
    with shards.opened(place, (SECOND,)) as work:
        write(work, SECOND, "two")
        finish(work)
    assert sorted(path.name for path in place.iterdir()) == ["dataset_info.json", SECOND.name]
