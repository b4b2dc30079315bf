"""What a request takes of memory and of time, estimated before anything of it is unpacked."""

import contextlib
import dataclasses
import os
from pathlib import Path

from warp_translate.constants import padded_side
from warp_translate.errors import UserError
from warp_translate.serving.architecture import Architecture

TOGETHER_PIXELS = 3 << 19
"""Most padded pixels that are translated at once; a larger image goes alone."""

QUICK_SECONDS = 0.05
"""A request that should take no longer than this goes past those that take longer."""

# Bytes for a pixel at the peak, measured with Pillow 12.3 and ONNX Runtime 1.31 on two cores.
_DECODED = 32  # Unpacking a file: the decoder's copies, Pillow's and the array.
_HELD = 8  # The arrays that stay while it is translated: color, alpha, output.
_ENCODED = 24  # The output as Pillow's picture, as a file and as an answer.
_DRAWN = 160  # The maps: a picture and a file of each, in base64.
_MAPS = 40  # Their float32 values.
# Seconds for a pixel: reading and writing files, drawing maps.
_SECONDS, _DRAWING_SECONDS = 2e-7, 1e-6
# What every request has beside its pixels.
_OVERHEAD = 1 << 20
# What a server keeps after its first requests, most of it in the engines' arena, and what it needs
# for any.
_KEPT, _LEAST_ROOM = 600_000_000, 200_000_000
_LARGER_FACTOR = "send a smaller picture, or ask for a larger factor"


@dataclasses.dataclass(frozen=True)
class Need:
    """What a request takes.

    Attributes:
      memory: bytes at the peak, without the request's body.
      seconds: of computation.
      told: what it is of, in the words of an error.
      remedy: what takes less, in the words of an error.
    """

    memory: int
    seconds: float
    told: str = "the request"
    remedy: str = "send a smaller picture"

    def and_also(self, memory: float, seconds: float = 0.0) -> "Need":
        """With more memory and time."""
        return dataclasses.replace(
            self, memory=self.memory + round(memory), seconds=self.seconds + seconds
        )


LEAST = Need(_OVERHEAD, 0.0)
"""What a request takes that is refused when it is looked at."""


def of_file(height: int, width: int, translation: Need | None, with_maps: bool) -> Need:
    """What a translation from file to file takes.

    Args:
      height: in pixels.
      width: in pixels.
      translation: what it takes between the files; None where nothing is translated.
      with_maps: whether the maps are drawn.
    """
    pixels = height * width
    seconds = (_SECONDS + with_maps * _DRAWING_SECONDS) * pixels
    files = max(_DECODED, _HELD + _ENCODED + with_maps * (_DRAWN + _MAPS)) * pixels
    if translation is None:
        return Need(_OVERHEAD + files, seconds, f"{height} x {width} pixels")
    memory = max(files, translation.memory + _HELD * pixels)
    return dataclasses.replace(translation, memory=memory).and_also(0, seconds)


def of_translation(
    architecture: Architecture,
    shape: tuple[int, int, int],
    factor: int,
    seconds: float,
    *,
    with_maps: bool,
) -> Need:
    """What a translation of arrays takes.

    Args:
      architecture: the generator.
      shape: ``(N, H, W)``.
      factor: how many times smaller the trunk's image is.
      seconds: what the engine takes.
      with_maps: whether the maps are wanted too.
    """
    count, height, width = shape
    padded = padded_side(height, factor) * padded_side(width, factor)
    together = max(padded, min(count * padded, TOGETHER_PIXELS))
    stays = _MAPS * with_maps * count * height * width
    size = f"{height} x {width}" if count == 1 else f"{count} x {height} x {width}"
    return Need(
        _OVERHEAD + round(together * bytes_per_pixel(architecture, factor)) + stays,
        seconds,
        f"{size} pixels at factor {factor}",
        _LARGER_FACTOR,
    )


def bytes_per_pixel(architecture: Architecture, factor: int) -> float:
    """What an engine takes for a padded pixel.

    Args:
      architecture: the generator.
      factor: how many times smaller the trunk's image is.
    """
    channels = architecture.width if architecture.head == "literal" else architecture.head_width
    return 44 + 12 * channels + 20 * architecture.width / factor**2


def room(gigabytes: float | None) -> int:
    """Bytes that requests may take, beside what this process holds without any.

    Args:
      gigabytes: what the process may hold; None for `usable_memory`, or as much as it needs.

    Raises:
      UserError: that is too little.
    """
    held = resident_memory() + _KEPT
    if gigabytes is None:
        return max(_LEAST_ROOM, usable_memory() - held)
    most = int(1e9 * gigabytes)
    if most - held < _LEAST_ROOM:
        raise UserError(
            f"most_memory={most / 1e9:g} GB is too little: the server holds {held / 1e9:.1f} GB "
            f"without requests, and needs {_LEAST_ROOM / 1e9:g} GB for them"
        )
    return most - held


def usable_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of memory that a server may use unless somebody says otherwise.

    Args:
      cgroup: where Linux tells of the container's share.

    Returns:
      Half of the machine's memory, or three quarters of the container's if that is less.
    """
    try:
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Not every system tells.
        machine = 8 << 30
    shares = [machine // 2]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # Without a limit it says "max".
            shares.append(int((cgroup / name).read_text()) * 3 // 4)
    return min(shares)


def resident_memory(proc: Path = Path("/proc")) -> int:
    """Bytes of memory that this process holds; 0 where the system does not tell.

    Args:
      proc: where Linux tells of processes.
    """
    try:
        pages = int((proc / "self/statm").read_text().split()[1])
    except (OSError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
