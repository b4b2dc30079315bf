"""Strips PNG files of chunks that do not affect their pixels.

Unlike other readers, Pillow refuses files for a long text, a long color profile or a wrong checksum
in an ancillary chunk, and does not verify the checksums of the pixels.
"""

import struct
import zlib
from dataclasses import dataclass

from PIL import PngImagePlugin

SIGNATURE = b"\x89PNG\r\n\x1a\n"

COLOR = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM")
"""Chunks that define the colors."""

_MAX_CHUNKS = 1 << 17
# Transparency, resolution and orientation.
_KEPT = (b"tRNS", b"pHYs", b"eXIf")
_LENGTHS = {b"pHYs": 9}
_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_KEPT_TEXTS = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")


@dataclass(frozen=True)
class PlainPng:
    """A PNG file reduced to its first image.

    Attributes:
      data: the file.
      color: contents of the chunks in `COLOR`, by name.
      damaged: names of the dropped chunks with a wrong checksum.
    """

    data: bytes
    color: dict[bytes, bytes]
    damaged: list[str]


def plain(data: bytes) -> PlainPng:
    """Drops animation, comments, unknown ancillary chunks, and ones with a wrong checksum.

    Args:
      data: a PNG file, perhaps cut short.

    Raises:
      ValueError: the checksum of a critical chunk is wrong, or there are too many chunks.
    """
    view = memoryview(data)
    kept: list[tuple[int, int]] = []
    color: dict[bytes, bytes] = {}
    damaged: list[str] = []
    place, begin, count = len(SIGNATURE), 0, 0
    while place + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if end > len(data) or not name.isalpha():
            break
        count += 1
        if count > _MAX_CHUNKS:
            raise ValueError("it has too many pieces")
        whole = zlib.crc32(view[place + 4 : end - 4]) == struct.unpack_from(">I", data, end - 4)[0]
        if not whole and (name[:1].isupper() or name == b"tRNS"):
            raise ValueError(f"the checksum of its {name.decode()} chunk is wrong")
        body = view[place + 8 : end - 4]
        if not _is_needed(name, body) or not whole:
            kept.append((begin, place))
            begin = end
            if not whole:
                damaged.append(name.decode())
            elif name in COLOR:
                color.setdefault(name, bytes(body))
        place = end
        if name == b"IEND":
            break
    if not kept:
        return PlainPng(data, color, damaged)
    kept.append((begin, len(data)))
    return PlainPng(b"".join(view[start:stop] for start, stop in kept), color, damaged)


def _is_needed(name: bytes, body: memoryview) -> bool:
    if name in _TEXTS:
        return _is_kept_text(name, bytes(body))
    return name[:1].isupper() or (name in _KEPT and _LENGTHS.get(name, len(body)) == len(body))


def _is_kept_text(name: bytes, body: bytes) -> bool:
    """True for a text with EXIF or XMP that is short enough for Pillow."""
    if not body.startswith(_KEPT_TEXTS):
        return False
    _, _, text = body.partition(b"\0")
    packed = name == b"zTXt"
    if name == b"iTXt":
        packed = text[:1] != b"\0"
        text = text[1:2] + text[2:].split(b"\0", 2)[-1]
    if not packed:
        return len(text) <= PngImagePlugin.MAX_TEXT_CHUNK
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(text[1:], PngImagePlugin.MAX_TEXT_CHUNK)
    except zlib.error:
        return False
    return text[:1] == b"\0" and not unpacker.unconsumed_tail
