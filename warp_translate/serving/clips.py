"""Translates video clips: decoding, translation and encoding side by side, resumable.

The video becomes H.264 in constant quality; audio is copied, and every frame keeps its time.
Subtitles and chapters are dropped. A clip is encoded in segments of `_SEGMENT` frames, each by an
encoder of its own, and kept beside the output until the clip is complete. A killed translation
continues after its last complete segment and ends with the same file.

Needs the extra ``video``: PyAV, which brings FFmpeg, and OpenCV.
"""

import dataclasses
import heapq
import io
import json
import os
import queue
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from warp_translate import locks, storage
from warp_translate.errors import UserError, reason, shown
from warp_translate.serving.batch_translate import Translator
from warp_translate.serving.smoothing import Smoother

T = TypeVar("T")

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts")
"""Suffixes of clips, in lower case."""

OUTPUT_SUFFIXES = (".mp4", ".mov", ".mkv")
"""Suffixes of translated clips."""

_SEGMENT = 128
_AHEAD = 4  # Frames by which decoding may be ahead, and encoding behind.
_QUALITY = "17"  # x264's rate factor; lower is better.
# FFmpeg's codes of color matrices.
_BT601, _BT709 = 5, 1
_KNOWN_MATRICES = (1, 4, 5, 6, 7, 9, 10)
_LEAST_HEIGHT_OF_BT709 = 720
_ABOUT = "about.json"
_FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}


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
    aspect: Any  # Width of a pixel by its height, None if unknown.
    color: dict[str, int]  # Color tags of FFmpeg, by attribute.


def translate_clip(
    translator: Translator,
    source: Path,
    target: Path,
    *,
    name: str,
    factor: int | None = None,
    checksum: str | None = None,
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
      checksum: SHA-256 of the clip; None to compute it.
      smoother: steadies the maps over time; None translates every frame alone.
      note: called with the number of frames that are done and, as far as it is known, of all.

    Returns:
      The number of frames.

    Raises:
      UserError: the clip cannot be read, the output cannot be written or cannot hold the clip's
        audio, or another command writes the same output.
    """
    av = library()
    stream, total = _describe(av, source)
    _check_audio(av, source, target, stream)
    parts = target.with_name(f".{target.name}.parts")
    try:
        with locks.held(parts / "lock", f"translates to {target.name}", 0.0):
            about = {
                "source": checksum or storage.sha256(source),
                "generator": name,
                "factor": factor,
                "smooth": smoother is not None,
                "encoder": list(av.library_versions["libavcodec"]),
            }
            sizes = _prepare(parts, about)
            count = sum(sizes)
            if smoother is not None and sizes:
                with np.load(_part(parts, len(sizes) - 1)) as kept:
                    smoother.restore(kept)
            encoded = _encoded(av, translator, source, parts, stream, count, factor, smoother)
            for done in encoded:
                count = done
                note(count, total)
            if not count:
                raise UserError(f"{shown(source)} holds no frame: give another clip")
            _join(av, source, target, parts, stream, -(-count // _SEGMENT))
            shutil.rmtree(parts, ignore_errors=True)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UserError(
            f"{shown(source)} cannot be translated to {shown(target)} ({reason(error)})"
        ) from error
    return count


def _encoded(
    av: Any,
    translator: Translator,
    source: Path,
    parts: Path,
    stream: _Stream,
    count: int,
    factor: int | None,
    smoother: Smoother | None,
) -> Iterator[int]:
    """Translates the frames after the first ``count`` and writes them; yields how many are done."""
    with ThreadPoolExecutor(1) as pool:
        written: list[Future[None]] = []
        encoder: _Encoder | None = None
        for frame in _ahead(_decoded(av, source, stream, count)):
            if encoder is None:
                encoder = _Encoder(av, stream, source, frame.image.shape)
            image = _translated(translator, smoother, frame.image, factor)
            written.append(pool.submit(encoder.add, image, frame.time))
            count += 1
            if count % _SEGMENT == 0:
                written.append(_keep(pool, encoder, parts, count, smoother))
                encoder = None
            while len(written) > _AHEAD:
                written.pop(0).result()
            yield count
        if encoder is not None:
            written.append(_keep(pool, encoder, parts, count + _SEGMENT - 1, smoother))
        for each in written:
            each.result()


def library() -> Any:
    """Returns PyAV; raises UserError if it is not installed."""
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
                raise UserError(f"{shown(source)} holds no video: give another clip")
            video = container.streams.video[0]
            rate = video.average_rate or video.guessed_rate or 25
            seconds = float(container.duration or 0) / av.time_base
            context = video.codec_context
            color = {
                "colorspace": _matrix(context),
                "color_primaries": context.color_primaries,
                "color_trc": context.color_trc,
            }
            aspect = video.sample_aspect_ratio
            if aspect and abs(_rotation(av, source)) == 90:
                aspect = 1 / aspect
            stream = _Stream(video.time_base, rate, aspect, color)
            return stream, video.frames or round(seconds * rate)
    except (av.FFmpegError, OSError) as error:
        raise UserError(
            f"{shown(source)} cannot be read as a clip ({reason(error)}): check that it plays"
        ) from error


def _rotation(av: Any, source: Path) -> int:
    with av.open(str(source)) as container:
        return int(next((frame.rotation for frame in container.decode(video=0)), 0))


def _matrix(pictures: Any) -> int:
    """The color matrix of frames; without a usable tag that of their size."""
    if pictures.colorspace in _KNOWN_MATRICES:
        return int(pictures.colorspace)
    return _BT709 if pictures.height >= _LEAST_HEIGHT_OF_BT709 else _BT601


def _check_audio(av: Any, source: Path, target: Path, stream: _Stream) -> None:
    """Raises UserError if the output's format cannot hold the audio, before any work."""
    suffix = target.suffix.lower()
    with av.open(str(source)) as given:
        kinds = ", ".join(sorted({each.codec_context.name for each in given.streams.audio}))
        try:
            with av.open(io.BytesIO(), "w", format=_FORMATS[suffix]) as made:
                _add_streams(made, given, stream, (16, 16, 3))
        except (av.FFmpegError, ValueError) as error:
            raise UserError(
                f"the audio of {shown(source)}, {kinds}, cannot be copied to {suffix}: "
                "choose --output=FILE.mkv, or convert the audio to AAC"
            ) from error


def _decoded(av: Any, source: Path, stream: _Stream, skipped: int) -> Iterator[Frame]:
    """The frames of a clip after the first ones."""
    step = max(1, round(1 / (stream.rate * stream.time_base)))
    with av.open(str(source)) as container:
        video = container.streams.video[0]
        video.thread_type = "AUTO"
        before, offset = None, 0
        for number, frame in enumerate(container.decode(video)):
            following = 0 if before is None else before + step
            time = following if frame.pts is None else frame.pts + offset
            if before is not None and time <= before:  # As where clips were joined.
                offset += following - time
                time = following
            before = time
            if number >= skipped:
                yield Frame(_to_rgb(av, frame), time)


def _to_rgb(av: Any, frame: Any) -> np.ndarray:
    image = frame.to_ndarray(
        format="rgb24",
        src_colorspace=_matrix(frame),
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

    def __init__(self, av: Any, stream: _Stream, source: Path, shape: Sequence[int]) -> None:
        self._av, self._stream, self._source, self._shape = av, stream, source, shape
        self._context = av.CodecContext.create("libx264", "w")
        _configure(self._context, stream, shape)
        self.packets: list[Any] = []

    def add(self, image: np.ndarray, time: int) -> None:
        """Encodes a frame."""
        if image.shape != self._shape:
            raise UserError(
                f"the frames of {shown(self._source)} change from {self._shape[1]} x "
                f"{self._shape[0]} to {image.shape[1]} x {image.shape[0]}: cut it into clips of "
                "one size"
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
    if stream.aspect:
        context.sample_aspect_ratio = stream.aspect
    # Without B-frames, segments can be joined anywhere.
    context.options = {"crf": _QUALITY, "preset": "veryfast", "bf": "0"}
    context.flags |= 1 << 22  # AV_CODEC_FLAG_GLOBAL_HEADER: as MP4 stores the parameters.


def _part(parts: Path, number: int) -> Path:
    return parts / f"{number:06d}.npz"


def _prepare(parts: Path, about: dict[str, Any]) -> list[int]:
    """Keeps the whole segments of the same translation; returns their numbers of frames."""
    record = parts / _ABOUT
    sizes: list[int] = []
    try:
        if json.loads(record.read_text("utf-8")) == about:
            while True:
                with np.load(_part(parts, len(sizes))) as part:
                    sizes.append(len(part["sizes"]))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        pass  # The end, another translation, or a damaged segment.
    for path in parts.glob("*.npz"):
        if not path.stem.isdigit() or int(path.stem) >= len(sizes):
            path.unlink()
    record.write_text(json.dumps(about), encoding="utf-8")
    return sizes


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


def _add_streams(
    made: Any, given: Any, stream: _Stream, shape: Sequence[int]
) -> tuple[Any, dict[int, Any]]:
    """Begins an output; returns its video, and its audio by the source's index."""
    video = made.add_stream("libx264", rate=stream.rate)
    _configure(video.codec_context, stream, shape)
    video.time_base = stream.time_base
    sounds = {}
    for each in given.streams.audio:
        sounds[each.index] = made.add_stream_from_template(each)
        sounds[each.index].metadata.update(each.metadata)  # Such as the language.
    made.start_encoding()
    return video, sounds


def _join(av: Any, source: Path, target: Path, parts: Path, stream: _Stream, count: int) -> None:
    """Writes the segments and the audio of the source as a clip, atomically."""
    partial = parts / f"whole{target.suffix.lower()}"
    with np.load(_part(parts, 0)) as first:
        shape = tuple(first["shape"])
    with av.open(str(source)) as given, av.open(str(partial), "w") as made:
        made.metadata.update(
            {name: value for name, value in given.metadata.items() if name in ("title", "comment")}
        )
        video, sounds = _add_streams(made, given, stream, shape)

        def pictures() -> Iterator[tuple[float, int, Any]]:
            for number in range(count):
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


def _ahead(items: Iterable[T]) -> Iterator[T]:
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
            for item in items:
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
