"""Lists of folders leave out images that cannot be trained on."""

import csv

import numpy as np
import pytest
from PIL import Image

from warp_translate.data import lists
from warp_translate.data.fitting import fits
from warp_translate.data.listing import Shares, write_list
from warp_translate.errors import UserError


def picture(path, seed, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


@pytest.fixture
def list_of(root, tmp_path, inspected):
    """Writes list.csv of a folder or list; returns its rows."""

    def make(source=root, **shares):
        inventory = inspected(source)
        path = tmp_path / "list.csv"
        counts = write_list(path, inventory, fits(inventory)[0], Shares(**shares))
        with open(path, newline="") as text:
            rows = list(csv.reader(text))
        assert sum(counts.values()) == len(rows) - 1
        return rows

    return make


def test_invalid_pairs_are_left_out(list_of, root):
    for side in "AB":
        for number in range(4):
            picture(root / f"train{side}/{number}.png", number)
        picture(root / f"test{side}/t.png", 7000)
    (root / "trainA/0.png").write_bytes(b"broken")
    picture(root / "trainB/1.png", 1, (9, 8))
    (root / "trainB/2.png").unlink()
    for name in ("png", "jpg"):
        picture(root / f"trainA/twice.{name}", 99)
    picture(root / "trainB/twice.png", 99)
    assert list_of() == [
        ["source", "target", "split"],
        ["root/testA/t.png", "root/testB/t.png", "test"],
        ["root/trainA/3.png", "root/trainB/3.png", "train"],
    ]


def test_copies_of_test_images_are_left_out_of_train(list_of, root):
    for side in "AB":
        for number in range(3):
            picture(root / f"train{side}/{side}{number}.png", number + 10 * ord(side))
    picture(root / "testA/copy.png", 10 * ord("A") + 1)
    picture(root / "testB/x.png", 5)
    rows = list_of()
    assert [row for row in rows if row[1] == "A"] == [
        ["root/testA/copy.png", "A", "test"],
        ["root/trainA/A0.png", "A", "train"],
        ["root/trainA/A2.png", "A", "train"],
    ]
    assert len(rows) == 1 + 3 + 4


def test_copies_are_in_one_split_whatever_their_names(list_of, root):
    for number in range(40):
        picture(root / f"pear/{number}.png", number)
        picture(root / f"apple/{number}.png", 1000 + number)
        picture(root / f"apple/copy of {number}.png", 1000 + number)
    rows = list_of(test=0.25, val=0.25)
    splits = {row[0]: row[2] for row in rows[1:]}
    assert set(splits.values()) == {"train", "val", "test"}
    for number in range(40):
        assert splits[f"root/apple/{number}.png"] == splits[f"root/apple/copy of {number}.png"]
    (root / "pear").rename(root / "birne")
    again = {row[0]: row[2] for row in list_of(test=0.25, val=0.25)[1:]}
    assert all(again[name.replace("pear", "birne")] == split for name, split in splits.items())


def test_groups_by_path_stay_in_one_split(list_of, root):
    for number in range(60):
        picture(root / f"pear/{number % 12}_{number}.png", number)
        picture(root / f"apple/{number % 12}_{number}.png", 1000 + number)
    rows = list_of(test=0.3, group_of=lambda path: path.name.split("_")[0])
    by_group = {}
    for name, _, split in rows[1:]:
        by_group.setdefault(name.split("/")[-1].split("_")[0], set()).add(split)
    assert all(len(splits) == 1 for splits in by_group.values())
    assert {split for splits in by_group.values() for split in splits} == {"train", "test"}


def test_copies_of_test_images_in_other_groups_are_left_out(list_of, root):
    for number in range(20):
        picture(root / f"pear/{number}_a.png", number)
        picture(root / f"pear/{(number + 1) % 20}_copy.png", number)
        picture(root / f"apple/{number}_a.png", 1000 + number)
    rows = list_of(test=0.3, group_of=lambda path: path.name.split("_")[0])
    splits = {row[0].removeprefix("root/"): row[2] for row in rows[1:]}
    parted = 0
    for number in range(20):
        copies = (f"pear/{number}_a.png", f"pear/{(number + 1) % 20}_copy.png")
        found = [splits.get(copy) for copy in copies]
        parted += None in found
        assert set(found) != {"train", "test"} and set(found) != {None}
    assert parted


def test_groups_of_a_list_stay_in_one_split(list_of, root, tmp_path):
    lines = ["file,domain,group"]
    for number in range(60):
        for kind in ("pear", "apple"):
            picture(root / f"{kind}{number}.png", 1000 * len(kind) + number)
            lines.append(f"root/{kind}{number}.png,{kind},{number % 12}")
    (tmp_path / "grouped.csv").write_text("\n".join(lines) + "\n")
    by_group = {}
    for name, _, split in list_of(tmp_path / "grouped.csv", test=0.3)[1:]:
        number = int("".join(filter(str.isdigit, name)))
        by_group.setdefault(number % 12, set()).add(split)
    assert len(by_group) == 12 and all(len(splits) == 1 for splits in by_group.values())
    assert {split for splits in by_group.values() for split in splits} == {"train", "test"}


def test_a_list_of_a_list_is_equal(list_of, root, tmp_path, inspected):
    for number in range(3):
        picture(root / f"train/pear/{number}.png", number)
        picture(root / f"train/apple/{number}.png", 10 + number)
    for kind in ("pear", "apple"):
        picture(root / f"test/{kind}/x.png", len(kind))
    rows = list_of()
    ways = fits(inspected(tmp_path / "list.csv"))
    assert [way.name for way in ways] == ["unpaired_folder", "domain_folders"]
    assert sorted(list_of(tmp_path / "list.csv")) == sorted(rows)


def test_an_empty_test_split_is_an_error_and_keeps_the_old_list(list_of, root, tmp_path):
    for number in range(3):
        picture(root / f"pear/{number}.png", number)
        picture(root / f"apple/{number}.png", 10 + number)
    (tmp_path / "list.csv").write_text("file,domain\nold.png,x\n")
    with pytest.raises(UserError, match="no image is left to test with: add images"):
        list_of(test=1e-9)
    assert len(list(lists.read(tmp_path / "list.csv"))) == 1


def test_strips_cannot_be_listed(list_of, root):
    picture(root / "train/1.png", 1, (16, 8))
    with pytest.raises(UserError, match="holds strips, one file for both images"):
        list_of()
