import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from warp_translate.image_io import decode_image, encode_png, read_image
from warp_translate.serving import batch_translate, engine


class Negative:
    """An engine that inverts, and remembers what it was given together."""

    def __init__(self):
        self.calls = []

    def translate(self, images, factor=None, *, with_maps=False):
        self.calls.append(images.shape)
        if images.shape[1] == 13:
            raise MemoryError
        maps = {"mask": np.full((*images.shape[:3], 1), 0.5, np.float32)} if with_maps else None
        return engine.Translated(255 - images, maps)


@pytest.fixture
def pictures(tmp_path, rng):
    """Pictures of two sizes in turns, one of them with alpha."""
    made = {}
    (tmp_path / "in").mkdir()
    for number in range(11):
        array = rng.integers(0, 256, (8 + number % 2, 10, 3 + (number == 4)), dtype=np.uint8)
        path = tmp_path / "in" / f"{number}.png"
        Image.fromarray(array).save(path)
        made[path] = array
    return made


def jobs(pictures, folder):
    folder.mkdir(exist_ok=True)
    return [batch_translate.Job(path, folder / path.name) for path in pictures]


@pytest.mark.parametrize("batch", [1, 3])
def test_every_picture_has_its_own_translation(pictures, tmp_path, batch):
    negative = Negative()
    todo = jobs(pictures, tmp_path / "out")
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


def test_large_pictures_are_not_put_together(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(batch_translate, "_MOST_PIXELS", 2 * 9 * 10)
    negative = Negative()
    list(batch_translate.translate_files(negative, jobs(pictures, tmp_path / "out"), batch=4))
    assert max(shape[0] for shape in negative.calls) == 2


def test_what_fails_is_named_and_the_others_go_on(pictures, tmp_path):
    paths = list(pictures)
    paths[2].write_bytes(b"no picture")
    paths[5].unlink()
    Image.fromarray(np.zeros((13, 10, 3), np.uint8)).save(paths[7])
    todo = jobs(pictures, tmp_path / "out")
    todo[9] = batch_translate.Job(todo[9].source, tmp_path / "nowhere" / "9.png")
    done = []
    found = list(
        batch_translate.translate_files(
            Negative(), todo, batch=3, done=lambda job, _: done.append(job)
        )
    )
    assert len(found) == 11
    assert set(done) == {each.job for each in found if not each.failure}
    said = sorted(each.failure for each in found if each.failure)
    assert [line for line in said if "2.png is not a JPEG" in line]
    assert [line for line in said if "5.png: there is no such file" in line]
    assert [line for line in said if "7.png: 10 x 13 pixels do not fit into memory" in line]
    assert [line for line in said if "9.png cannot be written" in line]
    assert len(said) == 4
    assert len(list((tmp_path / "out").iterdir())) == 7


def test_maps_are_there_before_the_translation_is(pictures, tmp_path):
    todo = jobs(pictures, tmp_path / "out")
    todo[3] = batch_translate.Job(todo[3].source, tmp_path / "out" / "taken.png")
    (tmp_path / "out" / "taken.mask.png").mkdir()
    found = list(
        batch_translate.translate_files(
            Negative(), todo, style=batch_translate.Style(maps=("mask",))
        )
    )
    assert sum(each.failure is not None for each in found) == 1
    assert not (tmp_path / "out" / "taken.png").exists()
    assert read_image(tmp_path / "out" / "0.mask.png").rgb.mean() == 128


def test_only_so_much_is_read_ahead(pictures, tmp_path, monkeypatch):
    read, lock = [], threading.Lock()
    original = batch_translate.image_io.read_file

    def counted(path):
        with lock:
            read.append(path)
        return original(path)

    monkeypatch.setattr(batch_translate.image_io, "read_file", counted)
    results = batch_translate.translate_files(
        Negative(), jobs(pictures, tmp_path / "out"), batch=1, workers=2
    )
    next(results)
    assert len(read) < 11
    results.close()


def test_a_pipe_is_read_and_no_source_that_is_recognized(tmp_path, rng):
    """As a shell gives one for ``<(command)``."""
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
