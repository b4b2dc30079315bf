import pytest

from warp_translate.data.unpaired_layout import SPLITS, scan_domains
from warp_translate.errors import UserError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def names(layout):
    return {
        split: [path.relative_to(layout.root).as_posix() for path in paths]
        for split, paths in layout.splits.items()
    }


def test_names_and_counts_are_free(tmp_path):
    touch(tmp_path, "trainA/b.jpg", "trainA/a.png", "trainA/x/c.webp", "trainB/q.JPG")
    touch(tmp_path, "testA/a.png", "testB/a.png", "testB/a.jpg", "trainA/note.txt")
    layout = scan_domains(tmp_path)
    assert names(layout) == {
        "trainA": ["trainA/a.png", "trainA/b.jpg", "trainA/x/c.webp"],
        "trainB": ["trainB/q.JPG"],
        "testA": ["testA/a.png"],
        "testB": ["testB/a.jpg", "testB/a.png"],
    }
    assert not layout.held_out


def test_folders_of_a_and_b_within_a_split_are_domains(tmp_path):
    touch(tmp_path, "train/A/1.png", "train/B/1.png", "train/B/2.png", "test/A/3.png")
    check_error(tmp_path, "test/A has no partner B/")
    touch(tmp_path, "test/B/4.png")
    assert names(scan_domains(tmp_path)) == {
        "trainA": ["train/A/1.png"],
        "trainB": ["train/B/1.png", "train/B/2.png"],
        "testA": ["test/A/3.png"],
        "testB": ["test/B/4.png"],
    }


@pytest.mark.parametrize(("count", "held"), [(2, 1), (14, 1), (30, 3)])
def test_holding_out(tmp_path, count, held):
    touch(tmp_path, *(f"trainA/{i:03}.png" for i in range(count)))
    touch(tmp_path, *(f"trainB/sub/{i:03}.png" for i in range(40)))
    layout = scan_domains(tmp_path)
    assert layout.held_out and set(layout.splits) == set(SPLITS)
    assert [len(layout.splits[split]) for split in SPLITS] == [count - held, 36, held, 4]
    found = [path for paths in layout.splits.values() for path in paths]
    assert len(found) == len(set(found))
    assert set(found) == set(tmp_path.rglob("*.png"))
    for domain in "AB":
        for split in ("train", "test"):
            paths = layout.splits[f"{split}{domain}"]
            assert all(path.is_relative_to(tmp_path / f"train{domain}") for path in paths)
            assert list(paths) == sorted(paths)


def test_what_is_held_out_depends_on_the_names_of_its_domain_alone(tmp_path):
    for root, others in (("one", 2), ("two", 30)):
        touch(tmp_path / root, *(f"trainA/{i:03}.png" for i in range(30)))
        touch(tmp_path / root, *(f"trainB/{i:03}.png" for i in range(others)))
    one, two = (names(scan_domains(tmp_path / root)) for root in ("one", "two"))
    assert one["testA"] == two["testA"]


def check_error(root, *parts):
    with pytest.raises(UserError) as error:
        scan_domains(root)
    assert "\n" not in str(error.value)
    for part in (str(root), *parts):
        assert part in str(error.value)


def test_wrong_layouts(tmp_path):
    check_error(tmp_path / "none", "does not exist", "expected trainA/ and trainB/")
    check_error(tmp_path, "holds nothing", "expected trainA/ and trainB/")
    touch(tmp_path, "file.png", "horses/a.png", "zebras/a.png")
    check_error(tmp_path, "holds file.png, horses/, zebras/", "expected trainA/ and trainB/")
    check_error(tmp_path / "file.png", "not a folder")
    touch(tmp_path / "half", "trainA/a.png", "testA/a.png")
    check_error(tmp_path / "half", "trainA has no partner trainB/")
    touch(tmp_path / "halftest", "trainA/a.png", "trainB/a.png", "testB/a.png")
    check_error(tmp_path / "halftest", "testB has no partner testA/")
    touch(tmp_path / "void", "trainA/a.png", "trainA/b.png", "trainB/a.txt")
    check_error(tmp_path / "void", "trainB holds no image")
    touch(tmp_path / "few", "trainA/a.png", "trainA/b.png", "trainB/a.png")
    check_error(tmp_path / "few", "trainB holds 1 image", "no folder of test images")
