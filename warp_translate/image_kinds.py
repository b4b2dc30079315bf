"""Recognizes image formats by their first bytes, and refuses files made to overload a decoder."""

import functools
import struct

from PIL import Image

from warp_translate.errors import UserError

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".heic", ".heif"),
    *(".tif", ".tiff", ".bmp", ".gif"),
)
"""Suffixes of image files, in lower case."""

NAMES = "JPEG, PNG, WebP, AVIF, HEIC, TIFF, BMP or GIF"
"""The supported formats, for messages."""

_SIGNATURES = (
    *((b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"GIF87a", "GIF")),
    *((b"GIF89a", "GIF"), (b"BM", "BMP"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF")),
)
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"hevc", b"hevx"}

# These two bytes do not occur within a scan. libjpeg processes the whole image for every scan, of
# which photographs have ten.
_START_OF_SCAN, _MAX_SCANS = b"\xff\xda", 100

# AVIF's decoder unpacks up to 268 million pixels whatever the size in the header; libtiff writes
# problems to stderr, and blocks if nobody reads it.
_OF_TRUSTED_FILES = ("AVIF", "TIFF")

# Pillow makes a Python number of every value of a TIFF tag that is not of bytes.
_MAX_VALUES, _BYTE_TYPES = 1 << 18, {1, 2, 6, 7}
_TILE_WIDTH, _TILE_LENGTH, _SHORT = 322, 323, 3


def kind_of(data: bytes) -> str | None:
    """Pillow's name of the format of a file, or None if it is not supported."""
    for signature, kind in _SIGNATURES:
        if data.startswith(signature):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp" and len(data) >= 16:
        length = min(struct.unpack_from(">I", data)[0], 256)
        brands = {data[8:12], *(data[place : place + 4] for place in range(16, length, 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & _HEIC_BRANDS:
            return "HEIF"
    return None


def check(data: bytes, kind: str, name: str, most_pixels: int, trusted: bool) -> None:
    """Refuses files that take much time or memory whatever the size in their header.

    Args:
      data: the file.
      kind: from `kind_of`.
      name: of the image in errors.
      most_pixels: of a tile.
      trusted: False for a file of a stranger.

    Raises:
      UserError: the file is refused.
    """
    if kind == "JPEG" and data.count(_START_OF_SCAN) > _MAX_SCANS:
        raise UserError(f"{name} has more than {_MAX_SCANS} scans; save it as a plain JPEG")
    if kind == "TIFF":
        _check_tiff(data, name, most_pixels)
    if kind in _OF_TRUSTED_FILES and not trusted:
        raise UserError(f"{name}: {kind} is not accepted here; send a JPEG or PNG")
    if kind == "HEIF" and not _reads_heif():
        raise UserError(
            f"{name} is a HEIC image, which needs another package: pip install "
            "'warp-translate[heic]', or convert it"
        )


def _check_tiff(data: bytes, name: str, most_pixels: int) -> None:
    order = "<" if data[:1] == b"I" else ">"
    sides = {}
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, type_, values = struct.unpack_from(f"{order}HHI", data, place)
            if values > _MAX_VALUES and type_ not in _BYTE_TYPES:
                raise UserError(f"{name} has too many pieces; save it as a plain TIFF or PNG")
            if tag in (_TILE_WIDTH, _TILE_LENGTH):
                form = "H" if type_ == _SHORT else "I"
                (sides[tag],) = struct.unpack_from(order + form, data, place + 8)
    except struct.error:
        return  # The decoder will report the damage.
    if sides.get(_TILE_WIDTH, 0) * sides.get(_TILE_LENGTH, 0) > most_pixels:
        raise UserError(f"{name} has tiles of more than {most_pixels} pixels; scale it down first")


@functools.cache
def _reads_heif() -> bool:
    """Registers Pillow's HEIC decoder; False if it is not installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return "HEIF" in Image.OPEN
