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

ALL = ["0.png", "1.png", "2.png"]


class Darker:
    """Subtracts a number, which identifies the generator."""

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


def work(folder, source, number=1, *, maps=(), factor=2, quality=None, fail=(), names=None):
    """Updates ``out``; returns the jobs done and the number of replaced translations."""
    style = batch_translate.Style(maps, quality=quality)
    out = folder / "out"
    record = OutputRecord(out, made_by(f"darker by {number}", factor, style))
    sources = sorted((folder / source).iterdir())
    jobs = [
        batch_translate.Job(path, out / name)
        for path, name in zip(sources, names or [path.name for path in sources], strict=True)
    ]
    left = record.begin(jobs, maps)
    todo = [job for job in left if job.source.name not in fail]
    ended = list(
        batch_translate.translate_files(Darker(number), todo, style=style, done=record.written)
    )
    assert not any(each.failure for each in ended)
    return sorted(job.target.name for job in left), record.replaced


def values(folder):
    return [int(read_image(folder / f"out/{number}.png").rgb[0, 0, 0]) for number in range(3)]


def test_translation_is_current_if_source_generator_and_settings_are(folder):
    assert work(folder, "set1") == (ALL, 0)
    assert work(folder, "set1") == ([], 0)
    # Other images with the same names, sizes and mtimes.
    for number in range(3):
        stat = (folder / f"set1/{number}.png").stat()
        assert (folder / f"set2/{number}.png").stat().st_size == stat.st_size
        os.utime(folder / f"set2/{number}.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert work(folder, "set2") == (ALL, 3)
    assert values(folder) == [100, 140, 180]
    # A move and a copy are the same images.
    os.rename(folder / "set2", folder / "moved")
    assert work(folder, "moved") == ([], 0)
    for each in (folder / "moved").iterdir():
        each.write_bytes(each.read_bytes())
    assert work(folder, "moved") == ([], 0)
    # Changed content of the same size and mtime is another image.
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


def test_maps_are_kept_and_replaced_with_their_translation(folder):
    work(folder, "set1", maps=("mask",))
    assert work(folder, "set1") == ([], 0)
    (folder / "out/1.mask.png").unlink()
    assert work(folder, "set1", maps=("mask",)) == (["1.png"], 0)
    # Maps of a replaced translation are removed.
    assert work(folder, "set1", 2) == (ALL, 3)
    assert sorted(os.listdir(folder / "out")) == [RECORD, *ALL]
    # A map whose file another image has claimed counts as missing.
    work(folder, "set1", 2, maps=("mask",))
    (folder / "set3").mkdir()
    Image.new("RGB", (5, 4)).save(folder / "set3/1.mask.png")
    assert work(folder, "set3", 2) == (["1.mask.png"], 0)
    assert work(folder, "set1", 2, maps=("mask",)) == (["1.png"], 0)


def test_killed_command_resumes(folder):
    assert work(folder, "set1", fail=("1.png", "2.png"))[0] == ALL
    # Written without a line, or with an incomplete one.
    Image.new("RGB", (5, 4)).save(folder / "out/1.png")
    with (folder / "out" / RECORD).open("ab") as record:
        record.write(b'{"output": "1.png", "ma')
    assert work(folder, "set1") == (["1.png", "2.png"], 0)
    assert work(folder, "set1") == ([], 0)
    assert values(folder) == [99, 139, 179]
    # Begun files are the command's own, also after an incomplete line.
    (folder / "out" / RECORD).write_bytes(b'{"output": "0.png", "ma')
    for number in range(3):
        (folder / f"out/{number}.png").unlink()
    work(folder, "set1", fail=ALL)
    Image.new("RGB", (5, 4)).save(folder / "out/0.png")
    assert work(folder, "set1") == (ALL, 0)


def test_translation_under_an_earlier_name_is_removed(tmp_path):
    """Once a.png exists, the translation of a.jpg moves from a.png to a.jpg.png."""
    (tmp_path / "in").mkdir()
    jpg, png = tmp_path / "in/a.jpg", tmp_path / "in/a.png"
    Image.new("RGB", (5, 4), (10,) * 3).save(jpg)

    def translate(*names):
        work(tmp_path, "in", names=names)
        return sorted(path.name for path in (tmp_path / "out").glob("*.png"))

    assert translate("a.png") == ["a.png"]
    Image.new("RGB", (5, 4), (200,) * 3).save(png)
    both = "a.jpg.png", "a.png.png"
    assert translate(*both) == ["a.jpg.png", "a.png.png"]
    # A file created by somebody else.
    (tmp_path / "out/a.png").write_bytes(b"mine")
    assert translate(*both) == ["a.jpg.png", "a.png", "a.png.png"]
    png.unlink()
    with pytest.raises(UserError, match=r"a\.png is there"):
        translate("a.png")


def test_unrecorded_files_are_not_overwritten(folder):
    (folder / "out").mkdir()
    (folder / "out/2.png").write_bytes(b"mine")
    (folder / "out/1.mask.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"1\.mask\.png is there, and 1 more are, and .*remove it$"):
        work(folder, "set1", maps=("mask",))
    assert sorted(os.listdir(folder / "out")) == ["1.mask.png", "2.png"]
    with pytest.raises(UserError, match=r"2\.png is there, and \.translated\.jsonl"):
        work(folder, "set1")


def test_damaged_record_never_hides_a_missing_translation(folder):
    work(folder, "set1")
    path = folder / "out" / RECORD
    whole = path.read_bytes()
    rng, replaced = random.Random(0), 0
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
        replaced += 1
        work(folder, "set1", 5)
    assert replaced > 5
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"translated\.jsonl cannot be used"):
        work(folder, "set1")
