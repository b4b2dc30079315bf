"""Folders in every known layout, and in some unknown ones."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from warp_translate.data.fitting import fits, likeness, remedy
from warp_translate.data.folders import scan_named_domains, scan_pairs
from warp_translate.errors import UserError


@pytest.fixture
def fit(tmp_path, inspected):
    """Fits of a folder with such images; a name may be followed by a size.

    Files of one name show the same, unless they are strangers.
    """

    def of(*files, strangers=False):
        for file in files:
            name, _, size = file.partition("=")
            width, height = map(int, size.split("x")) if size else (8, 8)
            seed = zlib.crc32((name if strangers else Path(name).stem).encode())
            cells = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(cells).resize((width, height)).save(tmp_path / name)
        inventory = inspected(tmp_path)
        return fits(inventory), remedy(inventory)

    return of


@pytest.mark.parametrize("side", ["train{}", "train/{}"])
def test_equal_names_are_pairs_if_the_images_are_similar(fit, side):
    found, _ = fit(*(f"{side.format(each)}/{n}.png" for each in "AB" for n in range(5)))
    assert [each.name for each in found][:2] == ["paired_folder", "unpaired_folder"]
    assert found[0].title.endswith(
        "an image is more similar to its partner than to 100% of the others"
    )
    assert not any(each.obstacles for each in found[:2])
    assert [each.tested for each in found][:2] == [(1,), (1, 1)]


@pytest.mark.parametrize("side", ["train{}", "train/{}"])
def test_numbered_images_of_two_domains_are_no_pairs(fit, side):
    files = (f"{side.format(each)}/{n}.png" for each in "AB" for n in range(20))
    found, _ = fit(*files, strangers=True)
    assert [each.name for each in found][:2] == ["unpaired_folder", "paired_folder"]
    assert "names are equal, but an image is more similar to its partner than to" in found[0].title


def test_one_pair_is_too_few_to_compare(fit):
    found, _ = fit("trainA/x.png", "trainB/x.png")
    assert [each.name for each in found] == ["unpaired_folder", "paired_folder"]
    assert "too few images can be compared" in found[0].title
    assert ["holds 1 image" in found[0].obstacles[0], "holds 1 pair" in found[1].obstacles[0]] == [
        *(True, True)
    ]


def test_an_empty_test_folder_is_an_obstacle(fit, tmp_path):
    for side in "AB":
        (tmp_path / f"test{side}").mkdir()
    found, _ = fit(*(f"train{side}/{n}.png" for side in "AB" for n in range(3)))
    assert all("testA holds no image" in each.obstacles[0] for each in found)


def test_domains_of_other_names_have_no_pairs(fit):
    found, _ = fit("trainA/1.png", "trainA/2.png", "trainA/3.png", "trainB/x.png", "trainB/1.png")
    assert [each.name for each in found] == ["unpaired_folder"]
    assert found[0].arguments == ("experiments/cycle.py",)


def test_missing_partners_are_obstacles(fit):
    files = [
        *("trainA/1.png", "trainA/2.png", "trainA/3.png", "trainB/1.png", "trainB/2.png=9x8"),
        *("testA/1.png", "valA/1.png", "valB/1.png"),
    ]
    found, _ = fit(*files)
    assert found[0].name == "paired_folder"
    lonely, unequal = found[0].obstacles
    assert "1 images have no partner of the same name: trainA/3; add" in lonely
    assert unequal.startswith("train: 1 pairs are of two sizes, trainA/2.png and trainB/2.png for")
    assert "testA has no partner testB/ beside it" in found[1].obstacles[0]


def test_ambiguous_names_are_the_error_of_training(fit, tmp_path):
    found, _ = fit(*(f"train{side}/{n}.png" for side in "AB" for n in range(2)), "trainB/1.jpg")
    with pytest.raises(UserError, match="differ in the suffix only") as error:
        scan_pairs(tmp_path)
    assert found[0].obstacles == (str(error.value),)


def test_strips_are_recognized_by_shape(fit):
    found, _ = fit("train/a/1.png=16x8", "train/b/2.png=32x16", "test/3.png=8x4")
    assert [(each.name, each.obstacles) for each in found] == [("paired_folder", ())]
    assert "strips" in found[0].title
    found, _ = fit("train/4.png=7x6")  # Three of four only, but in train itself.
    assert found[0].name == "domain_folders"


def test_images_of_another_shape_are_an_obstacle(fit, tmp_path):
    found, _ = fit("train/1.png=16x9", "train/2.png=15x9")
    assert [each.name for each in found] == ["paired_folder"]
    assert "1.png of 16x9 for instance; put the pairs into trainA/" in found[0].obstacles[0]
    assert "data set paired_strips" in found[0].obstacles[0]
    assert found[0].obstacles[1].startswith("1 images have an odd width")
    assert len(scan_pairs(tmp_path, strips=True).splits["train"]) == 1


def test_folders_are_domains(fit):
    found, _ = fit("pear/1.png", "pear/2.png", "apple/1.png", "plum/1.png", "plum/2.png")
    assert found[0].name == "domain_folders"
    assert found[0].arguments[1] == "classifier.domains=apple,pear,plum"
    assert "apple holds 1 image and no test split" in found[0].obstacles[0]


def test_a_domain_missing_in_test_is_the_error_of_training(fit, tmp_path):
    found, _ = fit("train/pear/1.png", "train/apple/1.png", "test/pear/1.png")
    assert found[0].name == "domain_folders"
    with pytest.raises(UserError, match="no folder apple/; add it, or name other") as error:
        scan_named_domains(tmp_path, ("apple", "pear"))
    assert found[0].obstacles == (str(error.value),)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("1.png", "2.png"), "All images are in one folder"),
        (("1.png=16x8", "2.png=8x4"), "/train && mv "),
        (("trainA/1.png",), "trainB/ is missing"),
        (("trainB/1.png",), "trainA/ is missing"),
        (("pictures/1.png",), "two domains:"),
    ],
)
def test_unknown_layouts_get_a_remedy(fit, files, said):
    found, text = fit(*files)
    assert found == [] and said in text


@pytest.fixture
def looks(rng):
    return rng.integers(-(2**63), 2**63 - 1, 40)


def test_the_share_equals_a_direct_count(looks):
    pairs = [(int(a), int(b)) for a, b in zip(looks[:7], looks[7:14], strict=True)]

    def distance(a, b):
        return ((a ^ b) & (2**64 - 1)).bit_count()

    shares = [
        np.mean(
            [
                (distance(a, other) > distance(a, own))
                + (distance(a, other) == distance(a, own)) / 2
                for j, (_, other) in enumerate(pairs)
                if j != i
            ]
        )
        for i, (a, own) in enumerate(pairs)
    ]
    found = likeness(pairs)
    assert found[0] == pytest.approx(np.mean(shares), abs=1e-12)


def test_pairs_are_significant_and_strangers_are_not(looks):
    changed = looks ^ np.array([0b1011 << (n % 60) for n in range(40)])
    pairs = list(zip(looks.tolist(), changed.tolist(), strict=True))
    share, significant = likeness(pairs)
    assert significant and share > 0.99
    assert likeness(pairs[:2])[1]
    strangers = list(zip(looks.tolist(), np.roll(changed, 1).tolist(), strict=True))
    assert not likeness(strangers)[1]
    assert likeness(pairs[:1]) is None
