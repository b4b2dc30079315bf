"""Flicker and speed of translated clips, frame by frame and with smoothed maps.

    python -m experiments.benchmarks.clips --photos=FOLDER --output=clips.json

A camera pans and zooms over a mosaic of photographs, so that the motion is known. The flicker is
the mean difference between a frame and the next one, warped back by that motion, in levels of 255,
inside a margin; that of the original comes from sampling. The excess is the flicker above the
original's. Sharpness is the standard deviation of the Laplacian, relative to the original's.

Frames a second are those of whole clips by `clips.translate_clip`, decoding and encoding included.
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from absl import flags

from experiments.benchmarks import measure
from experiments.benchmarks.measure import Table
from warp_translate.serving import bundle as bundles
from warp_translate.serving import clips
from warp_translate.serving.engine import OnnxEngine
from warp_translate.serving.smoothing import Smoother

_PHOTOS = flags.DEFINE_string("photos", None, "Folder of square photographs.", required=True)
_BUNDLES = flags.DEFINE_list("bundles", ["retouch", "reshape"], "Bundles.")
_FACTORS = flags.DEFINE_list("factors", ["4", "8"], "Reduction factors.")
_FRAMES = flags.DEFINE_integer("frames", 16, "Frames for the flicker.")
_SECONDS = flags.DEFINE_float("seconds", 10.0, "Length of the clip for the speed; 0 skips it.")

_FLICKER_SIZE, _SPEED_SIZE = (720, 1280), (1080, 1920)
_MARGIN = 40
_RATE = 25
_TILE, _COLUMNS, _ROWS = 512, 6, 4


def _mosaic() -> np.ndarray:
    paths = sorted(Path(_PHOTOS.value).rglob("*.jpg"))[::4][: _COLUMNS * _ROWS]
    tiles = [cv2.resize(cv2.imread(str(path))[..., ::-1], (_TILE, _TILE)) for path in paths]
    rows = [tiles[at : at + _COLUMNS] for at in range(0, len(tiles), _COLUMNS)]
    return np.concatenate([np.concatenate(row, 1) for row in rows], 0)


def _motion(frame: int) -> np.ndarray:
    """From pixels of a frame to pixels of the mosaic."""
    zoom = 1 + 0.0006 * frame
    return np.array([[zoom, 0, 40 + 2.3 * frame], [0, zoom, 60 + 1.1 * frame], [0, 0, 1]])


def _sampled(image: np.ndarray, motion: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(
            image,
            motion[:2].astype(np.float32),
            size[::-1],
            flags=how,
            borderMode=cv2.BORDER_REFLECT,
        )
    )


def _flicker(frames: list[np.ndarray]) -> float:
    errors = []
    inside = slice(_MARGIN, -_MARGIN)
    for number, (frame, following) in enumerate(itertools.pairwise(frames)):
        motion = np.linalg.inv(_motion(number + 1)) @ _motion(number)
        back = _sampled(following.astype(np.float32), motion, _FLICKER_SIZE)
        errors.append(np.abs(back - frame)[inside, inside].mean())
    return float(np.mean(errors))


def _sharpness(frames: list[np.ndarray]) -> float:
    return float(np.mean([cv2.Laplacian(frame, cv2.CV_32F).std() for frame in frames]))


def _steadiness(mosaic: np.ndarray, name: str, factor: int) -> Iterator[dict[str, Any]]:
    bundle = bundles.find(name)
    engine, smoother = OnnxEngine(bundle), Smoother(bundle.architecture)
    forms: dict[str, list[np.ndarray]] = {"original": [], "frame by frame": [], "smoothed": []}
    for number in range(_FRAMES.value):
        image = _sampled(mosaic, _motion(number), _FLICKER_SIZE)
        found = engine.translate(image[None], factor, with_maps=True)
        assert found.maps is not None
        maps = {key: value[0] for key, value in found.maps.items()}
        made = (image, found.output[0], smoother.smooth(image, maps))
        for frames, each in zip(forms.values(), made, strict=True):
            frames.append(each)
    base, sharp = _flicker(forms["original"]), _sharpness(forms["original"])
    for form, frames in forms.items():
        flicker = _flicker(frames)
        yield {
            "bundle": name,
            "factor": factor,
            "form": form,
            "flicker": round(flicker, 3),
            "excess": round(flicker - base, 3),
            "sharpness": round(_sharpness(frames) / sharp, 3),
            "frames_a_second": None,
        }


def _write(path: Path, frames: int, picture: Callable[[int], np.ndarray]) -> None:
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=_RATE, options={"preset": "veryfast"})
        video.height, video.width = _SPEED_SIZE
        video.pix_fmt = "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number), "rgb24")
            frame.pts = number
            container.mux(video.encode(frame))
        container.mux(video.encode(None))


def _speed(clip: Path, name: str, factor: int, smooth: bool) -> float:
    bundle = bundles.find(name)
    smoother = Smoother(bundle.architecture) if smooth else None
    begin = time.perf_counter()
    count = clips.translate_clip(
        OnnxEngine(bundle),
        clip,
        clip.with_name("out.mp4"),
        name=name,
        factor=factor,
        smoother=smoother,
    )
    return count / (time.perf_counter() - begin)


def benchmark(repeats: int) -> Table:
    """Measures flicker and speed for every bundle and factor."""
    del repeats
    mosaic = _mosaic()
    rows: list[dict[str, Any]] = []
    cases = list(itertools.product(_BUNDLES.value, map(int, _FACTORS.value)))
    for name, factor in cases:
        rows += _steadiness(mosaic, name, factor)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder, "clip.mp4")
        if frames := round(_SECONDS.value * _RATE):
            _write(clip, frames, lambda number: _sampled(mosaic, _motion(number), _SPEED_SIZE))
            for row in rows:
                if row["form"] != "original":
                    smooth = row["form"] == "smoothed"
                    speed = _speed(clip, row["bundle"], row["factor"], smooth)
                    row["frames_a_second"] = round(speed, 2)
    notes = {"flicker_size": _FLICKER_SIZE, "speed_size": _SPEED_SIZE}
    return Table(rows, packages=("av", "opencv-python-headless", "onnxruntime"), notes=notes)


if __name__ == "__main__":
    measure.run(benchmark, repeats=1)
