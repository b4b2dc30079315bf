"""What can be said of image files: whether they can be read, their size, and whom they are like.

Without jax and TFDS, so that many processes that look at files are started fast.
"""

import hashlib
import itertools
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from warp_translate.errors import UserError
from warp_translate.image_io import DecodedImage, decode_image

Key = TypeVar("Key")

_LOOK_SIDE = 8
_FLAT = 4.0  # Grey levels between the darkest and the lightest cell of an image that shows nothing.


@dataclass(frozen=True)
class Inspected:
    """One image file.

    Attributes:
      problem: why it cannot be read, in one line; None if it can. The rest is None where it cannot.
      width: in pixels, as it is to be looked at.
      height: likewise.
      mode: Pillow's name for how its pixels are stored: "RGB", "RGBA", "L", "P", "CMYK" ...
      format: "JPEG", "PNG", "HEIF" ..., by its content.
      pixels: digest of its size and its pixels; equal for files that show the very same.
      look: 64 bits of what it shows in 8 x 8 cells, equal for copies of another size or
        compression; None of an image that is of one colour.
    """

    problem: str | None = None
    width: int | None = None
    height: int | None = None
    mode: str | None = None
    format: str | None = None
    pixels: bytes | None = None
    look: int | None = None


def inspect(path: str | os.PathLike[str]) -> Inspected:
    """Reads a file and every pixel of it.

    Args:
      path: the file.

    Returns:
      What it is; a file that cannot be read is an answer, not an error.
    """
    try:
        data = Path(path).read_bytes()
        image = decode_image(data, "it", warn=False)
    except OSError as error:
        return Inspected(problem=error.strerror or str(error))
    except UserError as error:
        return Inspected(problem=str(error))
    except MemoryError:
        return Inspected(problem="it does not fit into memory")
    height, width = image.rgb.shape[:2]
    return Inspected(
        width=width,
        height=height,
        mode=image.mode,
        format=image.kind,
        pixels=_digest(image),
        look=_look(image.rgb),
    )


def inspect_all(
    chunks: Iterator[tuple[list[Key], list[str]]], workers: int
) -> Iterator[tuple[list[Key], list[Inspected]]]:
    """Reads many files, some at a time, by several processes.

    A file that kills whoever reads it, for want of memory perhaps, is a file that cannot be read.

    Args:
      chunks: keys of files, and their paths; only a few are taken ahead.
      workers: processes; 0 reads them in this one.

    Yields:
      The keys of a chunk, or of a part of it, and what their files are; in any order.
    """
    if not workers:
        for keys, paths in chunks:
            yield keys, _inspect_chunk(paths)
        return
    lost = True
    while lost:
        lost = False
        running: dict[Future[list[Inspected]], tuple[list[Key], list[str]]] = {}
        doubtful: list[tuple[list[Key], list[str]]] = []
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            while not doubtful:
                for chunk in itertools.islice(chunks, 2 * workers - len(running)):
                    try:
                        running[pool.submit(_inspect_chunk, chunk[1])] = chunk
                    except BrokenProcessPool:
                        doubtful.append(chunk)
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    keys, paths = running.pop(future)
                    try:
                        yield keys, future.result()
                    except BrokenProcessPool:
                        doubtful.append((keys, paths))
        # Nobody knows which file it was: each is read by a process of its own.
        for keys, paths in itertools.chain(doubtful, running.values()):
            lost = True
            for key, path in zip(keys, paths, strict=True):
                yield [key], [_inspect_alone(path)]


def _inspect_chunk(paths: Sequence[str]) -> list[Inspected]:
    return [inspect(path) for path in paths]


def _inspect_alone(path: str) -> Inspected:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(inspect, path).result()
        except BrokenProcessPool:
            return Inspected(problem="whoever reads it is killed, for want of memory perhaps")


def _digest(image: DecodedImage) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for array in (image.rgb, image.alpha):
        if array is not None:
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def _look(rgb: np.ndarray) -> int | None:
    """Whether each of 8 x 8 cells is darker than the one on its right (Krawetz 2013, dHash)."""
    grey = Image.fromarray(np.ascontiguousarray(rgb)).convert("L")
    small = grey.resize((_LOOK_SIDE + 1, _LOOK_SIDE), Image.Resampling.BOX)
    cells = np.asarray(small, np.int16)
    if np.ptp(cells) < _FLAT:
        return None
    bits = (cells[:, :-1] < cells[:, 1:]).ravel()
    # As SQLite stores it, a signed number of 64 bits.
    return int(np.packbits(bits).view(">i8")[0])
