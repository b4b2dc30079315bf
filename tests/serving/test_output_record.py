import os
import random

import numpy as np
import pytest
from PIL import Image

from warp_translate.errors import UserError
from warp_translate.image_io import read_image
from warp_translate.serving import batch_translate
from warp_translate.serving.engine import Translated
from warp_translate.serving.output_record import RECORD, OutputRecord, made_by


class Darker:
    """Subtracts a number; another one is another generator."""

    def __init__(self, number):
        self.number = number

    def translate(self, images, factor=None, *, with_maps=False):
        maps = {"mask": np.zeros((*images.shape[:3], 1), np.float32)} if with_maps else None
        return Translated(images - np.uint8(self.number), maps)


@pytest.fixture
def folder(tmp_path):
    for name in ("set1", "set2"):
        (tmp_path / name).mkdir()
        for number in range(3):
            value = 40 * number + (name == "set2") + 100
            Image.new("RGB", (5, 4), (value,) * 3).save(tmp_path / name / f"{number}.png")
    return tmp_path


def work(folder, source, number=1, *, maps=(), factor=2, quality=None, fail=()):
    """Brings ``out`` up to date; returns what was done and how many others went."""
    style = batch_translate.Style(maps, quality=quality)
    out = folder / "out"
    record = OutputRecord(out, made_by(f"darker by {number}", factor, style))
    jobs = [
        batch_translate.Job(path, out / path.name) for path in sorted((folder / source).iterdir())
    ]
    left = record.begin(jobs, maps)
    work = [job for job in left if job.source.name not in fail]
    ended = list(
        batch_translate.translate_files(Darker(number), work, style=style, done=record.written)
    )
    assert not any(each.failure for each in ended)
    return sorted(job.target.name for job in left), record.replaced


def values(folder):
    return [int(read_image(folder / f"out/{number}.png").rgb[0, 0, 0]) for number in range(3)]


ALL = ["0.png", "1.png", "2.png"]


def test_what_is_done_is_known_by_its_source_and_by_what_made_it(folder):
    assert work(folder, "set1") == (ALL, 0)
    assert work(folder, "set1") == ([], 0)
    # Another set with the same names, of the same size and time of change.
    for number in range(3):
        stat = (folder / f"set1/{number}.png").stat()
        assert (folder / f"set2/{number}.png").stat().st_size == stat.st_size
        os.utime(folder / f"set2/{number}.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert work(folder, "set2") == (ALL, 3)
    assert values(folder) == [100, 140, 180]
    # A copy and a move are the same pictures.
    os.rename(folder / "set2", folder / "moved")
    assert work(folder, "moved") == ([], 0)
    for each in (folder / "moved").iterdir():
        each.write_bytes(each.read_bytes())
    assert work(folder, "moved") == ([], 0)
    # One that is changed within its size and time is not.
    path = folder / "moved/1.png"
    stat = path.stat()
    path.write_bytes((folder / "set1/1.png").read_bytes())
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert work(folder, "moved") == (["1.png"], 1)
    assert values(folder) == [100, 139, 180]
    for other in ({"number": 7}, {"number": 7, "factor": 4}, {"number": 7, "quality": 3}):
        assert work(folder, "moved", **other) == (ALL, 3)
        assert work(folder, "moved", **other) == ([], 0)
    assert values(folder) == [94, 133, 174]


def test_maps_belong_to_their_translation(folder):
    work(folder, "set1", maps=("mask",))
    assert work(folder, "set1") == ([], 0)
    (folder / "out/1.mask.png").unlink()
    assert work(folder, "set1", maps=("mask",)) == (["1.png"], 0)
    # Those of a translation that is replaced are not left beside another.
    assert work(folder, "set1", 2) == (ALL, 3)
    assert sorted(os.listdir(folder / "out")) == [RECORD, *ALL]
    # A map whose file another picture has taken is not there.
    work(folder, "set1", 2, maps=("mask",))
    (folder / "set3").mkdir()
    Image.new("RGB", (5, 4)).save(folder / "set3/1.mask.png")
    assert work(folder, "set3", 2) == (["1.mask.png"], 0)
    assert work(folder, "set1", 2, maps=("mask",)) == (["1.png"], 0)


def test_a_call_that_was_killed_goes_on(folder):
    assert work(folder, "set1", fail=("1.png", "2.png"))[0] == ALL
    # Written and not noted, or noted by half.
    Image.new("RGB", (5, 4)).save(folder / "out/1.png")
    with (folder / "out" / RECORD).open("ab") as record:
        record.write(b'{"output": "1.png", "ma')
    assert work(folder, "set1") == (["1.png", "2.png"], 0)
    assert work(folder, "set1") == ([], 0)
    assert values(folder) == [99, 139, 179]
    # What is begun counts as the command's own, also behind half a line.
    (folder / "out" / RECORD).write_bytes(b'{"output": "0.png", "ma')
    for number in range(3):
        (folder / f"out/{number}.png").unlink()
    work(folder, "set1", fail=ALL)
    Image.new("RGB", (5, 4)).save(folder / "out/0.png")
    assert work(folder, "set1") == (ALL, 0)


def test_a_translation_under_an_earlier_name_is_removed(tmp_path):
    """While a.jpg was alone, its translation was a.png, which is the name of the second image."""
    out, jpg, png = tmp_path / "out", tmp_path / "a.jpg", tmp_path / "a.png"
    for path, value in ((jpg, 10), (png, 200)):
        Image.new("RGB", (5, 4), (value,) * 3).save(path)

    def translate(*pairs):
        record = OutputRecord(out, made_by("darker by 1", 2, batch_translate.Style()))
        jobs = record.begin([batch_translate.Job(source, out / name) for source, name in pairs], ())
        list(batch_translate.translate_files(Darker(1), jobs, done=record.written))
        return sorted(path.name for path in out.glob("*.png"))

    assert translate((jpg, "a.png")) == ["a.png"]
    both = (jpg, "a.jpg.png"), (png, "a.png.png")
    assert translate(*both) == ["a.jpg.png", "a.png.png"]
    # What is there now is somebody else's.
    (out / "a.png").write_bytes(b"mine")
    assert translate(*both) == ["a.jpg.png", "a.png", "a.png.png"]
    with pytest.raises(UserError, match=r"a\.png is there"):
        translate((jpg, "a.png"))


def test_files_of_others_are_left_alone(folder):
    (folder / "out").mkdir()
    (folder / "out/2.png").write_bytes(b"mine")
    (folder / "out/1.mask.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"1\.mask\.png is there, and 1 more are, and .*remove it$"):
        work(folder, "set1", maps=("mask",))
    assert sorted(os.listdir(folder / "out")) == ["1.mask.png", "2.png"]
    with pytest.raises(UserError, match=r"2\.png is there, and \.translated\.jsonl"):
        work(folder, "set1")


def test_a_damaged_record_never_takes_for_done_what_is_not(folder):
    work(folder, "set1")
    path = folder / "out" / RECORD
    whole = path.read_bytes()
    rng = random.Random(0)
    for _ in range(15):
        place = rng.randrange(len(whole))
        flipped = whole[place] ^ 1 << rng.randrange(8)
        path.write_bytes(whole[:place] + bytes([flipped]) + whole[place + 1 :])
        try:
            left, _ = work(folder, "set2")
        except UserError as error:
            assert "is there, and" in str(error)
            continue
        assert left == ALL and values(folder) == [100, 140, 180]
        work(folder, "set1", 5)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"translated\.jsonl cannot be used"):
        work(folder, "set1")
