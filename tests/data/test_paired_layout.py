import os

import numpy as np
import pytest
from PIL import Image

from warp_translate.data.paired_layout import PairFiles, fingerprint, load_pair, scan_pairs
from warp_translate.errors import UserError
from warp_translate.image_io import write_image


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def names(layout):
    return {split: [pair.name for pair in pairs] for split, pairs in layout.splits.items()}


def test_strips(tmp_path):
    touch(tmp_path, "train/b.jpg", "train/a.png", "train/x/c.webp", "test/d.jpg", "val/e.jpg")
    layout = scan_pairs(tmp_path)
    assert names(layout) == {"train": ["a", "b", "x/c"], "val": ["e"], "test": ["d"]}
    assert not layout.held_out
    assert all(pair.b is None for pairs in layout.splits.values() for pair in pairs)


def test_folders_match_by_stem(tmp_path):
    touch(tmp_path, "trainA/a.jpg", "trainB/a.png", "trainA/x/b.png", "trainB/x/b.webp")
    touch(tmp_path, "testA/c.v2.png", "testB/c.v2.png")
    layout = scan_pairs(tmp_path)
    assert names(layout) == {"train": ["a", "x/b"], "test": ["c.v2"]}
    first = layout.splits["train"][0]
    assert (first.a, first.b) == (tmp_path / "trainA/a.jpg", tmp_path / "trainB/a.png")


def test_folders_of_a_and_b_within_a_split_are_no_strips(tmp_path):
    touch(tmp_path, "train/A/1.png", "train/B/1.png", "test/A/2.png", "test/B/2.jpg")
    layout = scan_pairs(tmp_path)
    assert names(layout) == {"train": ["1"], "test": ["2"]}
    assert layout.splits["test"][0].b == tmp_path / "test/B/2.jpg"
    touch(tmp_path, "testA/3.png", "testB/3.png")
    check_error(tmp_path, "both testA/ or testB/ and test/A/ or test/B/")


def test_partners_find_each_other_in_either_form_of_unicode(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    touch(tmp_path, f"trainA/{composed}.png", f"trainB/{decomposed}.jpg")
    touch(tmp_path, "testA/x.png", "testB/x.png")
    (pair,) = scan_pairs(tmp_path).splits["train"]
    assert (pair.name, pair.a.stem, pair.b.stem) == (composed, composed, decomposed)
    touch(tmp_path, f"trainA/{decomposed}.png")
    check_error(tmp_path, "Unicode form of the name; remove one")


def test_single_images_are_no_strips_unless_the_user_says_so(tmp_path):
    for number in range(30):
        # Of the orientation's 6 width and height change places.
        exif = Image.Exif()
        exif[0x0112] = 6 if number % 2 else 1
        size = (8, 13) if number % 2 else (13, 8)
        size = (12, 6) if number == 0 else size
        (tmp_path / "train").mkdir(exist_ok=True)
        Image.new("RGB", size).save(tmp_path / f"train/{number:02}.png", exif=exif)
    check_error(tmp_path, "01.png of 13x8 for instance", "the data set paired_strips")
    assert len(scan_pairs(tmp_path, strips=True).splits["train"]) == 27
    for number in range(30):
        size = (6, 12) if number % 2 else (13, 7)
        exif[0x0112] = 6 if number % 2 else 1
        Image.new("RGB", size).save(tmp_path / f"train/{number:02}.png", exif=exif)
    assert len(scan_pairs(tmp_path).splits["train"]) == 27


@pytest.mark.parametrize(("count", "held"), [(2, 1), (4, 1), (30, 3)])
def test_holding_out(tmp_path, count, held):
    touch(tmp_path, *(f"train/{i:03}.png" for i in range(count)))
    layout = scan_pairs(tmp_path)
    assert layout.held_out
    train, test = names(layout)["train"], names(layout)["test"]
    assert len(test) == held
    assert sorted(train + test) == [f"{i:03}" for i in range(count)]
    assert train == sorted(train)
    assert names(scan_pairs(tmp_path)) == names(layout)


def test_held_out_names_do_not_depend_on_the_folder(tmp_path):
    for root in ("one", "two"):
        touch(tmp_path / root, *(f"train/{i:03}.png" for i in range(30)))
    one, two = (names(scan_pairs(tmp_path / root)) for root in ("one", "two"))
    assert one == two


def check_error(root, *parts):
    with pytest.raises(UserError) as error:
        scan_pairs(root)
    assert "\n" not in str(error.value)
    for part in (str(root), *parts):
        assert part in str(error.value)


def test_wrong_layouts(tmp_path):
    check_error(tmp_path / "none", "does not exist", "expected train/")
    check_error(tmp_path, "holds nothing", "expected train/")
    touch(tmp_path, "file.png", *(f"d{i}/a.png" for i in range(6)))
    check_error(tmp_path, "d0/, d1/, d2/, d3/, d4/ and 2 more", "expected train/")
    check_error(tmp_path / "file.png", "not a folder")
    touch(tmp_path / "one", "train/a.png")
    check_error(tmp_path / "one", "1 pair and no test split")
    touch(tmp_path / "both", "train/a.png", "trainA/a.png")
    check_error(tmp_path / "both", "both train/ and trainA/")
    touch(tmp_path / "half", "trainA/a.png")
    check_error(tmp_path / "half", "trainA", "trainB/")
    touch(tmp_path / "halftest", "trainA/a.png", "trainB/a.png", "testB/a.png")
    check_error(tmp_path / "halftest", "testB", "testA/")
    touch(tmp_path / "twice", "train/a.png", "train/a.jpg", "test/b.png")
    check_error(tmp_path / "twice", "a.jpg", "a.png", "suffix")
    touch(tmp_path / "void", "train/a.txt")
    check_error(tmp_path / "void", "holds no image")


def test_unmatched_names_are_listed_up_to_five(tmp_path):
    touch(tmp_path, "trainA/ok.png", "trainB/ok.png")
    touch(
        tmp_path, *(f"trainA/a{i}.png" for i in range(4)), *(f"trainB/b{i}.png" for i in range(3))
    )
    check_error(
        tmp_path, "7 images", "trainA/a0, trainA/a1, trainA/a2, trainA/a3, trainB/b0 and 2 more"
    )


def test_fingerprint_follows_the_files(tmp_path):
    touch(tmp_path, "train/a.png", "train/b.png", "test/c.png")
    seen = [fingerprint(scan_pairs(tmp_path))]
    assert fingerprint(scan_pairs(tmp_path)) == seen[0]

    def changed():
        seen.append(fingerprint(scan_pairs(tmp_path)))
        return len(set(seen)) == len(seen)

    touch(tmp_path, "train/d.png")
    assert changed()
    (tmp_path / "train/d.png").rename(tmp_path / "train/e.png")
    assert changed()
    (tmp_path / "train/e.png").rename(tmp_path / "test/e.png")
    assert changed()
    stat = (tmp_path / "test/e.png").stat()
    (tmp_path / "test/e.png").write_bytes(b"longer than before")
    os.utime(tmp_path / "test/e.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert changed()
    os.utime(tmp_path / "test/e.png", ns=(0, stat.st_mtime_ns + 1))
    assert changed()
    layout = scan_pairs(tmp_path)
    (tmp_path / "test/e.png").unlink()
    with pytest.raises(UserError, match=r"e\.png"):
        fingerprint(layout)


def test_load_strip(tmp_path, rng):
    strip = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    write_image(tmp_path / "a.png", strip)
    files = PairFiles("a", tmp_path / "a.png", None)
    left, right = load_pair(files, "AtoB")
    np.testing.assert_array_equal(left, strip[:, :4])
    np.testing.assert_array_equal(right, strip[:, 4:])
    source, target = load_pair(files, "BtoA")
    np.testing.assert_array_equal(source, right)
    np.testing.assert_array_equal(target, left)
    write_image(tmp_path / "a.png", strip[:, :7])
    with pytest.raises(UserError, match=r"a\.png is 7 pixels wide"):
        load_pair(files, "AtoB")


def test_load_files(tmp_path, rng):
    images = rng.integers(0, 256, (2, 6, 8, 3), dtype=np.uint8)
    files = PairFiles("a", tmp_path / "a.png", tmp_path / "b.png")
    write_image(files.a, images[0], np.zeros((6, 8), np.uint8))
    write_image(files.b, images[1])
    source, target = load_pair(files, "BtoA")
    np.testing.assert_array_equal(source, images[1])
    assert (target == 255).all()  # Transparent over white.
    write_image(files.b, images[1][:5])
    with pytest.raises(UserError, match=r"a\.png is 8x6 .*b\.png is 8x5"):
        load_pair(files, "AtoB")
