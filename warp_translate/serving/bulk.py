"""Translates many files with an engine: read ahead, in batches of one size, and taken up again."""

import collections
import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from warp_translate import image_files
from warp_translate.errors import UserError
from warp_translate.image_files import DecodedImage
from warp_translate.serving.bundle import Bundle
from warp_translate.serving.engine import Engine

RECORD = ".translated.json"
"""Says what the translations in a folder were made with."""

Job = tuple[Path, Path]
"""An image and where its translation goes."""

Draw = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""Makes pictures, uint8 ``[H, W, 3]`` by name, of one image's maps."""


# Together at most; for more the translation itself would take too much memory.
_MOST_PIXELS = 1 << 23


@dataclass(frozen=True, eq=False)
class _Read:
    """An image that was read: what it is, and what the engine takes of it."""

    job: Job
    decoded: DecodedImage
    original: np.ndarray


def claim(folder: Path, bundle: Bundle, factor: int) -> None:
    """Says what the translations in a folder are made with, so that they are never mixed.

    Args:
      folder: where they go; made if it is not there.
      bundle: what translates.
      factor: how many times smaller the trunk's image is.

    Raises:
      UserError: the folder holds those of another bundle or factor, or cannot be written.
    """
    wanted = {"bundle": bundle.name, "build": bundle.build, "factor": factor}
    path = folder / RECORD
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found != wanted:
                words = [f"{name} {found.get(name)}" for name in wanted]
                raise UserError(
                    f"{folder} holds translations by {', '.join(words)}: choose another --output, "
                    "or remove them"
                )
            return
        partial = path.with_name(f"{RECORD}.{os.getpid()}")
        partial.write_text(json.dumps(wanted) + "\n", encoding="utf-8")
        partial.replace(path)
    except (OSError, ValueError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or "it is no JSON"
        raise UserError(f"{path} cannot be used ({reason}): choose another --output") from error


def not_done(jobs: Iterable[Job], maps: Sequence[str] = ()) -> list[Job]:
    """Returns the jobs whose translation, or a picture of whose maps, is not there yet.

    Args:
      jobs: images and where their translations go.
      maps: names of the maps that are wanted too, see `map_path`.
    """
    return [
        (source, target)
        for source, target in jobs
        if not all(path.exists() for path in (target, *(map_path(target, name) for name in maps)))
    ]


def translate_files(
    engine: Engine,
    jobs: Sequence[Job],
    *,
    factor: int | None = None,
    batch: int = 4,
    workers: int = 4,
    draw: Draw | None = None,
) -> Iterator[str | None]:
    """Translates files; one that fails leaves the others alone.

    Images are read and written beside the translation, a few ahead. Those of one size among them
    are translated together. A translation appears whole or not at all, and after its maps.

    Args:
      engine: what translates.
      jobs: images and where their translations go.
      factor: one of the bundle's; None for its own.
      batch: most images at once.
      workers: threads that read and write.
      draw: if given, its pictures are written beside each translation, see `map_path`.

    Yields:
      For every job that is finished, in no order, None or what went wrong.
    """
    with ThreadPoolExecutor(workers) as pool, closing(_ahead(pool, jobs, 2 * batch)) as results:
        writing: collections.deque[Future[str | None]] = collections.deque()
        waiting: list[_Read] = []
        for result in results:
            if isinstance(result, str):
                yield result
            elif result is not None:
                waiting.append(result)
            while waiting and (result is None or len(waiting) >= 2 * batch):
                together = _of_one_size(waiting, batch)
                yield from _translate(engine, together, factor, draw, pool, writing)
                # As many images are held while they are written as while they are read.
                while len(writing) > 2 * batch:
                    yield writing.popleft().result()
        for written in writing:
            yield written.result()


def _ahead(
    pool: ThreadPoolExecutor, jobs: Iterable[Job], most: int
) -> Generator[_Read | str | None]:
    """Reads the images in their order, some ahead; None says that there are no more."""
    reading: collections.deque[Future[_Read | str]] = collections.deque()
    try:
        for job in jobs:
            reading.append(pool.submit(_read, job))
            if len(reading) >= most:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()
        yield None
    finally:
        for future in reading:
            future.cancel()


def _read(job: Job) -> _Read | str:
    try:
        decoded = image_files.read_image(job[0])
    except UserError as error:
        return str(error)
    return _Read(job, decoded, image_files.flatten(decoded))


def _of_one_size(waiting: list[_Read], most: int) -> list[_Read]:
    """Takes the image that has waited longest and others of its size."""
    shape = waiting[0].original.shape
    most = min(most, max(1, _MOST_PIXELS // (shape[0] * shape[1])))
    together = [read for read in waiting if read.original.shape == shape][:most]
    for read in together:
        waiting.remove(read)
    return together


def _translate(
    engine: Engine,
    together: Sequence[_Read],
    factor: int | None,
    draw: Draw | None,
    pool: ThreadPoolExecutor,
    writing: collections.deque[Future[str | None]],
) -> Iterator[str]:
    originals = np.stack([read.original for read in together])
    try:
        translated = engine.translate(originals, factor, with_maps=draw is not None)
    except MemoryError:
        height, width = originals.shape[1:3]
        for read in together:
            yield f"{read.job[0]}: {width} x {height} pixels do not fit into memory; scale it down"
        return
    for place, read in enumerate(together):
        maps = translated.maps and {name: each[place] for name, each in translated.maps.items()}
        pictures = draw(maps) if draw and maps else {}
        writing.append(pool.submit(_write, read, translated.output[place], pictures))


def write(
    target: Path,
    output: np.ndarray,
    alpha: np.ndarray | None,
    pictures: Mapping[str, np.ndarray],
) -> None:
    """Writes a translation, after the pictures of its maps.

    Args:
      target: where it goes.
      output: uint8 ``[H, W, 3]``, over white where the image was transparent.
      alpha: uint8 ``[H, W]``, the image's, or None.
      pictures: uint8 ``[H, W, 3]`` by name, see `map_path`.

    Raises:
      UserError: a file cannot be written.
    """
    for name, picture in pictures.items():
        image_files.write_image(map_path(target, name), picture)
    if alpha is not None:
        output = image_files.unflatten(output, alpha)
    image_files.write_image(target, output, alpha)


def map_path(target: Path, name: str) -> Path:
    """Where the picture of a map lies beside a translation."""
    return target.with_name(f"{target.stem}.{name}.png")


def _write(read: _Read, output: np.ndarray, pictures: Mapping[str, np.ndarray]) -> str | None:
    try:
        write(read.job[1], output, read.decoded.alpha, pictures)
    except UserError as error:
        return str(error)
    return None
