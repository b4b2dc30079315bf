"""Converts colors of image files to sRGB, by an ICC profile or an equivalent description.

lcms converts, relative colorimetric with black point compensation, and clips colors outside sRGB.
"""

import functools
import io
import struct
import zlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from PIL import ImageCms

_MAX_BYTES = 1 << 24
_CACHED_BYTES = 1 << 20

# x and y of white, red, green and blue, by number in ITU-T H.273.
_D65 = (0.3127, 0.3290)
_SRGB = (_D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_PRIMARIES = {
    1: _SRGB,
    5: (_D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: (_D65, (0.63, 0.34), (0.31, 0.595), (0.155, 0.07)),
    7: (_D65, (0.63, 0.34), (0.31, 0.595), (0.155, 0.07)),
    9: (_D65, (0.708, 0.292), (0.17, 0.797), (0.131, 0.046)),
    11: ((0.314, 0.351), (0.68, 0.32), (0.265, 0.69), (0.15, 0.06)),
    12: (_D65, (0.68, 0.32), (0.265, 0.69), (0.15, 0.06)),
}
_ADOBE = (_D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
_ADOBE_GAMMA = 563 / 256
# Gamma by number of the transfer function; None for sRGB's curve, which displays also use for
# BT.601, BT.709 and BT.2020.
_TRANSFERS = {1: None, 6: None, 13: None, 14: None, 15: None, 4: 2.2, 5: 2.8, 8: 1.0}
_HDR = {16: "PQ", 18: "HLG"}
_UNSPECIFIED = 2

# ICC.1:2022, 7.2.16 and annex E.
_HEADER_BYTES = 128
_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)

# gAMA of sRGB files by PNG's specification, in 1 / 100,000.
_SRGB_GAMA = 45_455

Chromaticities = tuple[tuple[float, float], ...]


class ProfileError(ValueError):
    """A color profile cannot be used; the message is the reason."""


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Converts the colors of an image.

    Args:
      image: of mode L, RGB, CMYK or LAB.
      profile: an ICC profile; one of RGB applies to gray images, too.

    Returns:
      RGB; the image itself if the profile is sRGB within one level.

    Raises:
      ProfileError: the profile is unreadable or for other modes.
    """
    if len(profile) > _MAX_BYTES:
        raise ProfileError(f"it has {len(profile)} bytes, more than {_MAX_BYTES}")
    # Bytes 16 to 19 are the color space (ICC.1).
    if image.mode == "L" and profile[16:20] == b"RGB ":
        image = image.convert("RGB")
    cached = _cached_transform if len(profile) <= _CACHED_BYTES else _transform
    transform = cached(profile, image.mode)
    if transform is None:
        return image
    if image.mode == "L":
        levels = transform.apply(Image.fromarray(np.arange(256, dtype=np.uint8)[None]))
        return Image.fromarray(np.asarray(levels)[0][np.asarray(image)])
    return transform.apply(image)


def png_profile(chunks: Mapping[bytes, bytes]) -> bytes | None:
    """The ICC profile of a PNG file, by the first of cICP, iCCP, sRGB, gAMA and cHRM.

    Args:
      chunks: contents by name.

    Returns:
      None for sRGB.

    Raises:
      ProfileError: the chunk cannot be used.
    """
    if (code := chunks.get(b"cICP")) is not None:
        if len(code) != 4 or code[2] != 0 or code[3] != 1:
            raise ProfileError("its cICP chunk is not one of full-range RGB")
        return coded_profile(code[0], code[1])
    if (packed := chunks.get(b"iCCP")) is not None:
        return _inflated(packed)
    gama, chrm = chunks.get(b"gAMA"), chunks.get(b"cHRM")
    if b"sRGB" in chunks or (gama is None and chrm is None):
        return None
    primaries: Chromaticities = _SRGB
    gamma = None
    try:
        if chrm is not None:
            values = [value / 100_000 for value in struct.unpack(">8I", chrm)]
            primaries = tuple(zip(values[::2], values[1::2], strict=True))
        if gama is not None and (value := struct.unpack(">I", gama)[0]) != _SRGB_GAMA:
            gamma = 100_000 / value
    except (struct.error, ZeroDivisionError) as error:
        raise ProfileError("its gAMA or cHRM chunk is malformed") from error
    return _matrix_profile(primaries, gamma)


def coded_profile(primaries: int, transfer: int) -> bytes | None:
    """The ICC profile of coding-independent code points (ITU-T H.273); None for sRGB.

    Raises:
      ProfileError: high dynamic range, or an unknown number.
    """
    if transfer in _HDR:
        raise ProfileError(f"it is of high dynamic range ({_HDR[transfer]}), not mapped to sRGB")
    primaries = 1 if primaries == _UNSPECIFIED else primaries
    transfer = 13 if transfer == _UNSPECIFIED else transfer
    if primaries not in _PRIMARIES or transfer not in _TRANSFERS:
        raise ProfileError(f"the code points {primaries} and {transfer} are not known here")
    return _matrix_profile(_PRIMARIES[primaries], _TRANSFERS[transfer])


def adobe_profile() -> bytes:
    """The ICC profile of Adobe RGB (1998), for files that state it in EXIF only."""
    profile = _matrix_profile(_ADOBE, _ADOBE_GAMMA)
    assert profile is not None
    return profile


def lab_profile() -> bytes:
    """The ICC profile of CIE L*a*b*, for images without one."""
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def _transform(profile: bytes, mode: str) -> "ImageCms.ImageCmsTransform | None":
    """Conversion of images of a mode; None if the profile is sRGB."""
    from PIL import ImageCms  # Takes 5 ms; most files have no profile.

    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = opened.profile.xcolor_space.strip()
        wanted = {"L": "GRAY", "LAB": "Lab"}.get(mode, mode)
        if space != wanted:
            known = space if space.isascii() and space.isalnum() else "unknown colors"
            raise ProfileError(f"it is for {known} and the image is {wanted}")
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        if mode == "L":  # lcms would use a coarse table, off by 10 levels for a gamma of 1.
            flags |= ImageCms.Flags.NOOPTIMIZE
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        transform = ImageCms.ImageCmsTransform(opened, _srgb(), mode, "RGB", intent, flags=flags)
    except (OSError, TypeError, ValueError) as error:
        if isinstance(error, ProfileError):
            raise
        raise ProfileError(" ".join(str(error).split()) or "it is malformed") from error
    if mode in ("L", "RGB"):
        # Every 17th level of each channel.
        levels = np.mgrid[0:256:17, 0:256:17, 0:256:17].reshape(3, 16, 256)
        probe = Image.fromarray(levels.transpose(1, 2, 0).astype(np.uint8)).convert(mode)
        found, same = transform.apply(probe), probe.convert("RGB")
        if np.abs(np.asarray(found, np.int16) - np.asarray(same, np.int16)).max() <= 1:
            return None
    return transform


_cached_transform = functools.lru_cache(8)(_transform)


@functools.cache
def _srgb() -> "ImageCms.ImageCmsProfile":
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _inflated(chunk: bytes) -> bytes:
    """The profile in an iCCP chunk, which holds a name, the compression method and zlib data."""
    _, end, rest = chunk.partition(b"\0")
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(rest[1:], _MAX_BYTES + 1)
    except zlib.error as error:
        raise ProfileError("its iCCP chunk cannot be unpacked") from error
    if not end or rest[:1] != b"\0" or not (unpacker.eof or len(profile) > _MAX_BYTES):
        raise ProfileError("its iCCP chunk is malformed")
    return profile


def _matrix_profile(primaries: Chromaticities, gamma: float | None) -> bytes | None:
    """An ICC profile of three primaries and a curve; None for sRGB.

    Args:
      primaries: x and y of white, red, green and blue.
      gamma: of the curve; None for sRGB's.

    Raises:
      ProfileError: the primaries are degenerate, or the gamma is out of range.
    """
    if gamma is not None and not 0.1 <= gamma <= 10:
        raise ProfileError(f"its gamma of {gamma:.3g} is out of range")
    if gamma is None and np.allclose(primaries, _SRGB, atol=2e-4):
        return None
    try:
        colorants = _colorants(primaries)
    except (ZeroDivisionError, np.linalg.LinAlgError):
        colorants = np.full((3, 3), np.inf)
    if not np.abs(colorants).max() < 4:
        raise ProfileError("its primaries span no colors")
    # sRGB's curve as an ICC function of type 3: gamma, a, b, c, d (IEC 61966-2-1).
    curve = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045) if gamma is None else (gamma,)
    parametric = b"para\0\0\0\0" + struct.pack(">HH", 3 if gamma is None else 0, 0) + _fixed(curve)
    tags = {
        name: b"XYZ \0\0\0\0" + _fixed(column)
        for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants.T, strict=True)
    }
    tags[b"wtpt"] = b"XYZ \0\0\0\0" + _fixed(_D50)
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), parametric)
    table, body = struct.pack(">I", len(tags)), b""
    start = _HEADER_BYTES + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    size, version, kind = start + len(body), b"\4\x30\0\0", b"mntrRGB XYZ "
    header = struct.pack(">I4x4s12s12x4s28x12s48x", size, version, kind, b"acsp", _fixed(_D50))
    return header + table + body


def _colorants(primaries: Chromaticities) -> np.ndarray:
    """XYZ of red, green and blue in columns, adapted from the white point to D50 (Bradford)."""
    white, *colors = [np.array([x / y, 1.0, (1 - x - y) / y]) for x, y in primaries]
    unscaled = np.stack(colors, axis=1)
    matrix = unscaled * np.linalg.solve(unscaled, white)
    scale = (_BRADFORD @ np.array(_D50)) / (_BRADFORD @ white)
    return np.linalg.inv(_BRADFORD) @ (scale[:, None] * (_BRADFORD @ matrix))


def _fixed(numbers: Iterable[float]) -> bytes:
    """Numbers as ICC's s15Fixed16Number."""
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)
