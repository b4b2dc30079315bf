import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from warp_translate.image_io import decode_image, encode_png, read_image
from warp_translate.serving import batch_translate, engine


class Negative:
    """An engine that inverts images and records their shapes."""

    def __init__(self):
        self.calls = []

    def translate(self, images, factor=None, *, with_maps=False):
        self.calls.append(images.shape)
        if images.shape[1] == 13:
            raise MemoryError
        maps = {"mask": np.full((*images.shape[:3], 1), 0.5, np.float32)} if with_maps else None
        return engine.Translated(255 - images, maps)


@pytest.fixture
def todo(tmp_path, rng):
    """Jobs of 11 images of two alternating sizes, one with alpha."""
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    for number in range(11):
        array = rng.integers(0, 256, (8 + number % 2, 10, 3 + (number == 4)), dtype=np.uint8)
        Image.fromarray(array).save(tmp_path / "in" / f"{number}.png")
    names = [f"{number}.png" for number in range(11)]
    return [batch_translate.Job(tmp_path / "in" / name, tmp_path / "out" / name) for name in names]


@pytest.mark.parametrize("batch", [1, 3])
def test_every_image_gets_its_own_translation(todo, batch):
    negative = Negative()
    ended = list(batch_translate.translate_files(negative, todo, batch=batch))
    assert {each.job for each in ended} == set(todo) and len(ended) == 11
    assert not any(each.failure for each in ended)
    for job in todo:
        found, before = read_image(job.target), read_image(job.source)
        if before.alpha is None:
            np.testing.assert_array_equal(found.rgb, 255 - before.rgb)
        else:
            np.testing.assert_array_equal(found.alpha, before.alpha)
    assert sum(shape[0] for shape in negative.calls) == 11
    assert max(shape[0] for shape in negative.calls) == batch


def test_batches_are_limited_in_pixels(todo, monkeypatch):
    monkeypatch.setattr(batch_translate, "_MOST_PIXELS", 2 * 9 * 10)
    negative = Negative()
    list(batch_translate.translate_files(negative, todo, batch=4))
    assert max(shape[0] for shape in negative.calls) == 2


def test_failures_are_named_and_the_others_are_translated(todo, tmp_path):
    todo[2].source.write_bytes(b"no picture")
    todo[5].source.unlink()
    Image.fromarray(np.zeros((13, 10, 3), np.uint8)).save(todo[7].source)
    todo[9] = batch_translate.Job(todo[9].source, tmp_path / "nowhere" / "9.png")
    done = []
    found = list(
        batch_translate.translate_files(
            Negative(), todo, batch=3, done=lambda job, _: done.append(job)
        )
    )
    assert len(found) == 11
    assert set(done) == {each.job for each in found if not each.failure}
    failures = sorted(each.failure for each in found if each.failure)
    for failure, expected in zip(
        failures,
        (
            "2.png is not a JPEG",
            "5.png: there is no such file",
            "7.png: 10 x 13 pixels do not fit into memory",
            "9.png cannot be written",
        ),
        strict=True,
    ):
        assert expected in failure
    assert len(list((tmp_path / "out").iterdir())) == 7


def test_maps_are_written_before_the_translation(todo, tmp_path):
    out = tmp_path / "out"
    todo[3] = batch_translate.Job(todo[3].source, out / "taken.png")
    (out / "taken.mask.png").mkdir()
    style = batch_translate.Style(maps=("mask",))
    found = list(batch_translate.translate_files(Negative(), todo, style=style))
    assert sum(each.failure is not None for each in found) == 1
    assert not (out / "taken.png").exists()
    assert read_image(out / "0.mask.png").rgb.mean() == 128


def test_reading_ahead_is_limited(todo, monkeypatch):
    read, lock = [], threading.Lock()
    original = batch_translate.image_io.read_file

    def counted(path):
        with lock:
            read.append(path)
        return original(path)

    monkeypatch.setattr(batch_translate.image_io, "read_file", counted)
    results = batch_translate.translate_files(Negative(), todo, batch=1, workers=2)
    next(results)
    assert len(read) < 11
    results.close()


def test_pipes_are_read_but_not_recorded(tmp_path, rng):
    """As a shell passes them for ``<(command)``."""
    data = encode_png(rng.integers(0, 256, (4, 5, 3), np.uint8))
    receiver, sender = os.pipe()
    os.write(sender, data)
    os.close(sender)
    job = batch_translate.Job(Path(f"/dev/fd/{receiver}"), tmp_path / "a.png")
    try:
        (ended,) = batch_translate.translate_files(Negative(), [job])
    finally:
        os.close(receiver)
    assert (ended.failure, ended.source) == (None, None)
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.png").rgb, 255 - decode_image(data, "it").rgb
    )
