"""Smoothing on pictures whose motion is known."""

import cv2
import numpy as np
import pytest

from tests.serving.conftest import architecture_of, random_generator
from warp_translate.serving import engine
from warp_translate.serving.smoothing import Smoother

SIDE, STEP = 96, 2


@pytest.fixture
def smoother():
    return Smoother(architecture_of(random_generator()[0]))


@pytest.fixture
def scene(rng):
    """A textured picture, wider than a frame."""
    noise = rng.integers(0, 256, (SIDE, 2 * SIDE, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)


def view(scene, number):
    """A frame of a camera that moves to the right by 2 pixels a frame."""
    return np.ascontiguousarray(scene[:, STEP * number : STEP * number + SIDE])


def maps_of(image, mask=0.5, displacement=0.0):
    """The maps of a generator that inverts."""
    original = image.astype(np.float32) / 127.5 - 1
    full = np.ones((*image.shape[:2], 1), np.float32)
    return {
        "pretranslated": -original,
        "warped": original,
        "mask": full * np.float32(mask),
        "displacement": np.repeat(full * np.float32(displacement), 2, -1),
        "reduced": original[::2, ::2],
    }


def output(mask):
    """What the generator that inverts makes of a picture, without a displacement."""
    return lambda image: np.round(127.5 * ((image / 127.5 - 1) * (1 - 2 * mask) + 1))


def test_steady_maps_give_the_engine_s_output(exported, rng):
    image = rng.integers(0, 256, (40, 52, 3), dtype=np.uint8)
    found = engine.OnnxEngine(exported[0]).translate(image[None], 2, with_maps=True)
    smoother = Smoother(exported[0].architecture)
    for _ in range(3):
        made = smoother.smooth(image, {name: each[0] for name, each in found.maps.items()})
        assert np.abs(made.astype(int) - found.output[0]).max() <= 1


def test_flicker_of_a_moving_picture_is_averaged(smoother, scene, rng):
    errors = []
    for number in range(20):
        image, mask = view(scene, number), 0.5 + rng.uniform(-0.2, 0.2)
        steady = output(0.5)(image)
        made = smoother.smooth(image, maps_of(image, mask))
        inside = slice(None), slice(None, -24)  # What has been in view for some frames.
        errors.append(
            [np.abs(each - steady)[inside].mean() for each in (output(mask)(image), made)]
        )
    alone, smoothed = np.mean(errors[8:], 0)
    assert smoothed < 0.35 * alone


def test_the_average_follows_the_picture(smoother, scene):
    """A mask that is open on a part of the picture moves with it."""
    shape = np.zeros(scene.shape[:2], np.float32)
    shape[30:66, 60:90] = 1
    kept = np.zeros((SIDE, SIDE, 1), np.float32)
    for number in range(12):
        image = view(scene, number)
        maps = maps_of(image)
        maps["mask"] = view(shape, number)[..., None]
        made = smoother.smooth(image, maps)
        kept = smoother.state()["smooth_average"][..., 3:4]
    assert np.abs(kept - maps["mask"]).mean() < 0.03  # 0.15 if the average stood still.
    expected = output(maps["mask"])(image)
    assert np.abs(made - expected)[8:-8, 8:-8].mean() < 4


def test_a_cut_begins_anew(smoother, scene):
    for _ in range(5):
        smoother.smooth(view(scene, 0), maps_of(view(scene, 0), 0.9, 3.0))
    image = 255 - view(scene, 30)
    made = smoother.smooth(image, maps_of(image, 0.1))
    assert np.abs(made - output(0.1)(image)).mean() < 2
