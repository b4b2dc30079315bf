"""Metadata of image files: resolution and EXIF, without private tags unless requested."""

import math
from dataclasses import dataclass
from typing import Literal

from PIL import Image
from PIL.ExifTags import IFD, Base

Kept = Literal["drop", "safe", "all"]
"""How much metadata is kept.

- "drop": nothing.
- "safe": DPI and standard EXIF tags except location, serial numbers and the owner's name.
- "all": these, too.

Thumbnails, maker notes, XMP and IPTC are always dropped: a thumbnail shows the image before
translation, and the others may hold private data.
"""

# Descriptions in the first directory, which in TIFF files also holds the pixel layout.
_MAIN_TAGS = {
    *(Base.ImageDescription, Base.Make, Base.Model, Base.XResolution, Base.YResolution),
    *(Base.ResolutionUnit, Base.Software, Base.DateTime, Base.Artist, Base.HostComputer),
    *(Base.Copyright, Base.Rating, Base.XPTitle, Base.XPComment, Base.XPAuthor),
    *(Base.XPKeywords, Base.XPSubject),
}
_PHOTO_TAGS = range(0x829A, 0xA501)  # EXIF's own directory.
# Those that do not hold for the written image, or cannot be moved.
_INVALID_TAGS = {
    *(Base.MakerNote, Base.RelatedSoundFile, Base.ExifImageWidth, Base.ExifImageHeight),
    *(IFD.Interop, Base.Gamma),
}
_PRIVATE_TAGS = {
    *(Base.CameraOwnerName, Base.ImageUniqueID, Base.BodySerialNumber, Base.LensSerialNumber),
}
_SRGB, _INCH = 1, 2
_PER_INCH = {_INCH: 1.0, 3: 2.54}
_MAX_BYTES = 65_000  # A JPEG segment holds 65,533.
_MAX_DPI = 65_535  # As in a JPEG header.


@dataclass(frozen=True)
class Metadata:
    r"""Metadata to write beside the pixels.

    Attributes:
      dpi: pixels per inch, horizontal and vertical; None if unknown.
      exif: an EXIF block beginning with ``Exif\0\0``, upright and in sRGB as the pixels of
        `image_io`; None if nothing is kept.
    """

    dpi: tuple[float, float] | None = None
    exif: bytes | None = None


def read_metadata(image: Image.Image, kept: Kept) -> Metadata:
    """Reads the metadata of a loaded image; leaves out unreadable parts."""
    if kept == "drop":
        return Metadata()
    try:
        exif = image.getexif()
        block = _exif_block(exif, kept)
    except Exception:  # Pillow's EXIF reader fails in many ways.
        exif, block = Image.Exif(), None
    return Metadata(_dpi(image, exif), block)


def exif_with_dpi(metadata: Metadata) -> bytes | None:
    """An EXIF block with the DPI, for formats without another place for it; None if empty."""
    if metadata.dpi is None:
        return metadata.exif
    exif = Image.Exif()
    if metadata.exif is not None:
        exif.load(metadata.exif)
    exif[Base.XResolution], exif[Base.YResolution] = metadata.dpi
    exif[Base.ResolutionUnit] = _INCH
    return exif.tobytes()


def _dpi(image: Image.Image, exif: Image.Exif) -> tuple[float, float] | None:
    found = image.info.get("dpi")
    named = exif.get(Base.XResolution), exif.get(Base.YResolution)
    if image.format == "JPEG" and None in named and not image.info.get("jfif_unit"):
        return None  # Pillow's default of 72.
    unit = exif.get(Base.ResolutionUnit, _INCH)
    if found is None and None not in named and unit in _PER_INCH:
        found = named
        scale = _PER_INCH[unit]
    else:
        scale = 1.0
    try:
        across, down = (scale * float(value) for value in found or ())
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    # Pillow says 1 for a TIFF file without a resolution.
    usable = all(math.isfinite(value) and 1 < value <= _MAX_DPI for value in (across, down))
    return (across, down) if usable else None


def _exif_block(found: Image.Exif, kept: Kept) -> bytes | None:
    """A new EXIF block with the kept tags."""
    fresh = Image.Exif()
    for tag, value in found.items():
        if tag in _MAIN_TAGS:
            fresh[tag] = value
    dropped = _INVALID_TAGS if kept == "all" else _INVALID_TAGS | _PRIVATE_TAGS
    photo = {
        tag: value
        for tag, value in found.get_ifd(IFD.Exif).items()
        if tag in _PHOTO_TAGS and tag not in dropped
    }
    if Base.ColorSpace in photo:
        photo[Base.ColorSpace] = _SRGB
    if photo:
        fresh[IFD.Exif] = photo
    if kept == "all" and (location := found.get_ifd(IFD.GPSInfo)):
        fresh[IFD.GPSInfo] = location
    if not fresh:
        return None
    if Base.Orientation in found:
        fresh[Base.Orientation] = 1
    block = fresh.tobytes()
    return block if len(block) <= _MAX_BYTES else None
