"""Translates video clips: decoding, translation and encoding side by side, resumable.

The video becomes H.264 in constant quality; audio is copied, and every frame keeps its time. A clip
is encoded in segments of `_SEGMENT` frames, each by an encoder of its own, and kept beside the
output until the clip is complete. A killed translation resumes after its last segment and ends with
the same file.

Needs the extra ``video``: PyAV, which brings FFmpeg, and OpenCV.
"""

import dataclasses
import heapq
import json
import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from warp_translate import storage
from warp_translate.errors import UserError, shown
from warp_translate.serving.batch_translate import Translator
from warp_translate.serving.smoothing import Smoother

T = TypeVar("T")

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts")
"""Suffixes of clips, in lower case."""

OUTPUT_SUFFIXES = (".mp4", ".mov", ".mkv")
"""Suffixes of translated clips."""

_SEGMENT = 128
_AHEAD = 4  # Frames decoded before, and encoded after, the one that is translated.
_QUALITY = "17"  # x264's rate factor; lower is better.
_UNSPECIFIED = 2  # FFmpeg's code of an unknown color space.
_BT601, _BT709 = 5, 1
_LEAST_HEIGHT_OF_BT709 = 720


@dataclasses.dataclass(frozen=True)
class Frame:
    """A frame of the clip, upright."""

    image: np.ndarray  # uint8 RGB ``[H, W, 3]``.
    time: int  # In units of the stream's time base.


@dataclasses.dataclass(frozen=True)
class _Stream:
    """How a clip's video is read and written."""

    time_base: Any
    rate: Any
    color: dict[str, int]  # Color tags of FFmpeg, by attribute.


def translate_clip(
    translator: Translator,
    source: Path,
    target: Path,
    *,
    name: str,
    factor: int | None = None,
    smoother: Smoother | None = None,
    note: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Translates a clip.

    Args:
      translator: translates the frames.
      source: the clip, in any format that FFmpeg reads.
      target: the output; its suffix is one of `OUTPUT_SUFFIXES`.
      name: identifies the generator; a translation by another one is not resumed.
      factor: the reduction; None for the generator's own.
      smoother: steadies the maps over time; None translates every frame alone.
      note: called with the number of frames that are done and, as far as it is known, of all.

    Returns:
      The number of frames.

    Raises:
      UserError: the clip cannot be read, or the output cannot be written.
    """
    av = _library()
    stream, total = _describe(av, source)
    about = {
        "source": storage.sha256(source),
        "generator": name,
        "factor": factor,
        "smooth": smoother is not None,
        "library": av.library_versions["libavcodec"],
    }
    parts = target.with_name(f".{target.name}.parts")
    done = _prepare(parts, json.loads(json.dumps(about)))
    count = done * _SEGMENT
    if smoother is not None and done:
        with np.load(_part(parts, done - 1)) as kept:
            smoother.restore(kept)
    try:
        frames = _ahead(lambda: _decoded(av, source, count))
        with ThreadPoolExecutor(1) as pool:
            written: list[Future[None]] = []
            encoder: _Encoder | None = None
            for frame in frames:
                if encoder is None:
                    encoder = _Encoder(av, stream, frame.image.shape)
                image = _translated(translator, smoother, frame.image, factor)
                written.append(pool.submit(encoder.add, image, frame.time))
                count += 1
                if count % _SEGMENT == 0:
                    written.append(_keep(pool, encoder, parts, count, smoother))
                    encoder = None
                while len(written) > _AHEAD:
                    written.pop(0).result()
                note(count, total)
            if encoder is not None:
                written.append(_keep(pool, encoder, parts, count + _SEGMENT - 1, smoother))
            for each in written:
                each.result()
        if not count:
            raise UserError(f"{shown(source)} holds no frame")
        _join(av, source, target, parts, stream)
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{shown(source)}: {error}") from error
    shutil.rmtree(parts, ignore_errors=True)
    return count


def _library() -> Any:
    try:
        import av
    except ImportError as error:
        raise UserError("clips need PyAV: pip install 'warp-translate[video]'") from error
    av.logging.set_level(av.logging.PANIC)
    return av


def _describe(av: Any, source: Path) -> tuple[_Stream, int]:
    """How the clip's video is written, and its approximate number of frames."""
    try:
        with av.open(str(source)) as container:
            if not container.streams.video:
                raise UserError(f"{shown(source)} holds no video")
            video = container.streams.video[0]
            rate = video.average_rate or video.guessed_rate or 25
            seconds = float(container.duration or 0) / av.time_base
            context = video.codec_context
            # Frames without a tag are read as players read them.
            large = context.height >= _LEAST_HEIGHT_OF_BT709
            matrix = context.colorspace
            color = {
                "colorspace": (_BT709 if large else _BT601) if matrix == _UNSPECIFIED else matrix,
                "color_primaries": context.color_primaries,
                "color_trc": context.color_trc,
            }
            return _Stream(video.time_base, rate, color), video.frames or round(seconds * rate)
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{shown(source)} cannot be read as a clip ({error})") from error


def _decoded(av: Any, source: Path, skipped: int) -> Iterator[Frame]:
    """The frames of a clip after the first ones."""
    with av.open(str(source)) as container:
        video = container.streams.video[0]
        video.thread_type = "AUTO"
        before: int | None = None
        for number, frame in enumerate(container.decode(video)):
            time = frame.pts if frame.pts is not None else number
            if before is not None and time <= before:  # Damaged clips repeat times.
                time = before + 1
            before = time
            if number >= skipped:
                yield Frame(_to_rgb(av, frame), time)


def _to_rgb(av: Any, frame: Any) -> np.ndarray:
    large = frame.height >= _LEAST_HEIGHT_OF_BT709
    space = frame.colorspace if frame.colorspace != _UNSPECIFIED else _BT709 if large else _BT601
    image = frame.to_ndarray(
        format="rgb24",
        src_colorspace=int(space),
        dst_color_range=av.video.reformatter.ColorRange.JPEG,
    )
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))


def _translated(
    translator: Translator, smoother: Smoother | None, image: np.ndarray, factor: int | None
) -> np.ndarray:
    found = translator.translate(image[None], factor, with_maps=smoother is not None)
    if smoother is None:
        return found.output[0]
    assert found.maps is not None
    return smoother.smooth(image, {name: each[0] for name, each in found.maps.items()})


class _Encoder:
    """Encodes a segment."""

    def __init__(self, av: Any, stream: _Stream, shape: Sequence[int]) -> None:
        self._av, self._stream, self._shape = av, stream, shape
        self._context = av.CodecContext.create("libx264", "w")
        _configure(self._context, stream, shape)
        self.packets: list[Any] = []

    def add(self, image: np.ndarray, time: int) -> None:
        """Encodes a frame."""
        if image.shape != self._shape:
            raise UserError(
                f"the size of the clip's frames changes from {self._shape[1]} x {self._shape[0]} "
                f"to {image.shape[1]} x {image.shape[0]}: cut it into clips of one size"
            )
        frame = self._av.VideoFrame.from_ndarray(image, "rgb24").reformat(
            format=self._context.pix_fmt,
            dst_colorspace=self._stream.color["colorspace"],
            src_color_range=self._av.video.reformatter.ColorRange.JPEG,
            dst_color_range=self._av.video.reformatter.ColorRange.MPEG,
        )
        frame.pts, frame.time_base = time, self._stream.time_base
        self.packets += self._context.encode(frame)

    def finish(self) -> dict[str, Any]:
        """Returns the encoded segment as arrays."""
        self.packets += self._context.encode(None)
        data = [bytes(packet) for packet in self.packets]
        return {
            "data": np.frombuffer(b"".join(data), np.uint8),
            "sizes": np.array([len(each) for each in data]),
            "times": np.array([packet.pts for packet in self.packets]),
            "keys": np.array([packet.is_keyframe for packet in self.packets]),
            "shape": np.array(self._shape),
        }


def _configure(context: Any, stream: _Stream, shape: Sequence[int]) -> None:
    context.height, context.width = shape[:2]
    # Halved chroma needs even sides.
    context.pix_fmt = "yuv444p" if shape[0] % 2 or shape[1] % 2 else "yuv420p"
    context.time_base, context.framerate = stream.time_base, stream.rate
    for name, value in stream.color.items():
        setattr(context, name, value)
    context.color_range = 1
    # Without frames that refer to later ones, segments can be joined at any time.
    context.options = {"crf": _QUALITY, "preset": "veryfast", "bf": "0"}
    context.flags |= 1 << 22  # AV_CODEC_FLAG_GLOBAL_HEADER: as MP4 stores the parameters.


def _part(parts: Path, number: int) -> Path:
    return parts / f"{number:06d}.npz"


def _prepare(parts: Path, about: dict[str, Any]) -> int:
    """Makes the folder of the segments; returns how many are there of the same translation."""
    record = parts / "about.json"
    try:
        if json.loads(record.read_text("utf-8")) != about:
            shutil.rmtree(parts)
    except (OSError, ValueError):
        shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(about), encoding="utf-8")
    done = 0
    while _part(parts, done).exists():
        done += 1
    return done


def _keep(
    pool: ThreadPoolExecutor, encoder: _Encoder, parts: Path, end: int, smoother: Smoother | None
) -> Future[None]:
    """Writes a segment, atomically, with the state of the smoother after it."""
    state: dict[str, Any] = smoother.state() if smoother is not None else {}
    path = _part(parts, end // _SEGMENT - 1)

    def write() -> None:
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, **encoder.finish(), **state)
        os.replace(partial, path)

    return pool.submit(write)


def _join(av: Any, source: Path, target: Path, parts: Path, stream: _Stream) -> None:
    """Writes the segments and the audio of the source as a clip, atomically."""
    numbers = sorted(int(path.stem) for path in parts.glob("*.npz"))
    partial = parts / f"whole{target.suffix.lower()}"
    with np.load(_part(parts, 0)) as first:
        shape = tuple(first["shape"])
    with av.open(str(source)) as given, av.open(str(partial), "w") as made:
        made.metadata.update(
            {name: value for name, value in given.metadata.items() if name in ("title", "comment")}
        )
        video = made.add_stream("libx264", rate=stream.rate)
        _configure(video.codec_context, stream, shape)
        video.time_base = stream.time_base
        sounds = {
            each.index: made.add_stream_from_template(each)
            for each in given.streams.audio
            if each.codec_context is not None
        }
        made.start_encoding()

        def pictures() -> Iterator[tuple[float, int, Any]]:
            for number in numbers:
                with np.load(_part(parts, number)) as part:
                    data, ends = part["data"], np.cumsum(part["sizes"])
                    rows = zip(part["sizes"], ends, part["times"], part["keys"], strict=True)
                    for size, end, time, key in rows:
                        packet = av.Packet(data[end - size : end].tobytes())
                        packet.pts = packet.dts = int(time)
                        packet.time_base, packet.stream = stream.time_base, video
                        packet.is_keyframe = bool(key)
                        yield float(time * stream.time_base), 0, packet

        def audio() -> Iterator[tuple[float, int, Any]]:
            for packet in given.demux(*given.streams.audio) if sounds else ():
                if packet.dts is not None:
                    time = float(packet.dts * packet.time_base)
                    packet.stream = sounds[packet.stream.index]
                    yield time, 1, packet

        for _, _, packet in heapq.merge(pictures(), audio(), key=lambda each: each[:2]):
            made.mux(packet)
    os.replace(partial, target)


def _ahead(items: Callable[[], Iterable[T]]) -> Iterator[T]:
    """Iterates in a thread, up to `_AHEAD` items ahead."""
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(_AHEAD)
    stopped = threading.Event()

    def put(item: T | None, error: BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put((item, error), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items():
                if not put(item, None):
                    return
            put(None, StopIteration())
        except BaseException as error:  # Raised again in the thread that iterates.
            put(None, error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            assert item is not None
            yield item
    finally:
        stopped.set()
