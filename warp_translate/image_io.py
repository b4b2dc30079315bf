"""Image files in and out of numpy, on the host.

Images are uint8 [H, W, 3] in RGB order and in sRGB, with a separate alpha channel where the file
has one.
Whatever is wrong with a file ends in a ``UserError`` of one line that names it.
"""

import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from absl import logging
from PIL import ExifTags, Image, PngImagePlugin

from warp_translate import image_color, image_kinds, png_chunks, storage
from warp_translate.errors import UserError, shown
from warp_translate.file_tree import walk
from warp_translate.image_color import ProfileError
from warp_translate.image_kinds import SUFFIXES as SUFFIXES
from warp_translate.image_metadata import Kept, Metadata, exif_with_dpi, read_metadata

MAX_PIXELS = 89_478_485
"""The size above which Pillow suspects a decompression bomb; larger images are refused."""

ImageFormat = Literal["png", "jpeg", "webp"]

FORMAT_OF: dict[str, ImageFormat] = {
    **{".png": "png", ".webp": "webp"},
    **{".jpg": "jpeg", ".jpeg": "jpeg", ".jfif": "jpeg"},
}
"""Which format a file is written in, by its suffix in lower case."""

_JPEG_QUALITY = 95
_LONGEST_SIDE = {"jpeg": 65_500, "webp": 16_383}

# Pillow takes time for every piece of a file and keeps some of them. Files that are pictures have
# a few thousand.
_MOST_READS = 1 << 19

_MOST_NAMED = 5  # Of the files that are passed over.

_UNCALIBRATED = 0xFFFF

_BAND_PIXELS = 1 << 16

# EXIF's orientations but for the upright one.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class DecodedImage:
    """An image as it was stored, after its EXIF orientation has been applied.

    Attributes:
      rgb: uint8 [H, W, 3]; not multiplied by alpha.
      alpha: uint8 [H, W] with 255 for opaque, or None if the file has no transparency.
      metadata: what was asked to be kept of the file's metadata.
      warning: what about the file is not as it should be although its pixels can be read; None if
        nothing.
      kind: Pillow's name for the format of the file.
      mode: Pillow's name for how its pixels are stored.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None
    metadata: Metadata = field(default_factory=Metadata)
    warning: str | None = None
    kind: str = ""
    mode: str = ""


def read_image(path: str | os.PathLike[str], *, kept: Kept = "drop") -> DecodedImage:
    """Reads an image file.

    Args:
      path: the file.
      kept: how much metadata is returned beside the pixels.

    Returns:
      The image; see `decode_image`.

    Raises:
      UserError: the file is missing, unreadable, empty, damaged, too large or no image.
    """
    return decode_image(read_file(path), shown(path), kept=kept)


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Reads a file that is to be decoded.

    Raises:
      UserError: the file is missing or cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{shown(path)}: there is no such file; check the path") from error
    except IsADirectoryError as error:
        raise UserError(f"{shown(path)} is a folder, not an image; name a file in it") from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"{shown(path)} cannot be read ({_one_line(error)}); check the path"
        ) from error


def decode_image(
    data: bytes,
    name: str,
    *,
    most_pixels: int = MAX_PIXELS,
    kept: Kept = "drop",
    trusted: bool = True,
    warn: bool = True,
) -> DecodedImage:
    """Decodes an image of any of `image_kinds.NAMES`; HEIC needs the extra heic.

    Gray, palette, CMYK and transparent images become RGB with or without alpha. Colors are
    converted to sRGB by the embedded ICC profile, PNG's cICP, gAMA and cHRM, the code points of
    AVIF and HEIC, or EXIF's statement of Adobe RGB; a profile that cannot be used is a warning, and
    the image is taken as sRGB. Gray of 16 bits is divided by 257 and rounded; of colors of 16 bits
    Pillow keeps the high byte, which differs from that by 1 at most. Of several pictures, as of an
    animation, the first is taken. EXIF that cannot be read is passed over.

    Args:
      data: the encoded file.
      name: what errors call the image, usually its path.
      most_pixels: larger images are refused before they are unpacked; `MAX_PIXELS` at most.
      kept: how much metadata is returned beside the pixels.
      trusted: False, for files of strangers, refuses AVIF and TIFF.
      warn: whether `DecodedImage.warning` is logged.

    Returns:
      The image, uint8, at least 1x1.

    Raises:
      UserError: the data are empty, damaged, no image, made to take long, or hold more pixels.
      MemoryError: the image does not fit into memory.
    """
    kind = _checked_kind(data, name, most_pixels, trusted)
    chunks: dict[bytes, bytes] = {}
    warnings: list[str] = []
    try:
        if kind == "PNG":
            png = png_chunks.plain(data)
            data, chunks = png.data, png.color
            warnings += [f"its {each} chunk is damaged and left out" for each in png.damaged]
        with Image.open(_Bounded(data), formats=(kind,)) as image:
            # Judged from the header: a bomb must be refused before its pixels are unpacked.
            if image.width * image.height > most_pixels:
                raise _too_large(name, most_pixels)
            if image.mode in ("I", "F"):
                raise UserError(
                    f"{name} has 32 bits a channel, of unknown range; convert it to 8 or 16 bits"
                )
            upright = _upright(image)
            if upright.width * upright.height > most_pixels:  # Of HEIC the header may be wrong.
                raise _too_large(name, most_pixels)
            try:
                rgb, alpha = _to_arrays(upright, _profile(image, chunks, data))
            except ProfileError as error:
                warnings.append(f"its color profile cannot be used ({error}); taken as sRGB")
                rgb, alpha = _to_arrays(upright, None)
            found = DecodedImage(
                *(rgb, alpha, read_metadata(image, kept), "; ".join(warnings) or None),
                *(kind, image.mode),
            )
    except (UserError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name, most_pixels) from error
    except Image.UnidentifiedImageError as error:
        raise UserError(
            f"{name} is damaged or an unusual kind of {kind} image; convert it or remove it"
        ) from error
    # Pillow's decoders answer damaged files with OSError, SyntaxError, ValueError, struct.error,
    # EOFError and more; to the user all of them are one thing.
    except Exception as error:
        raise UserError(
            f"{name} is damaged or cut short ({_one_line(error)}); replace or remove it"
        ) from error
    if warn and found.warning is not None:
        logging.warning("%s: %s", name, found.warning)
    return found


def image_size(data: bytes, *, trusted: bool = True) -> tuple[int, int] | None:
    """Reads the height and the width of an image from its header.

    Args:
      data: the encoded file.
      trusted: as of `decode_image`.

    Returns:
      Height and width in pixels, before the EXIF orientation is applied; None where `decode_image`
      refuses the file.
    """
    try:
        kind = _checked_kind(data, "the image", MAX_PIXELS, trusted)
        if kind == "PNG":
            data = png_chunks.plain(data).data
        with Image.open(_Bounded(data), formats=(kind,)) as image:
            return image.height, image.width
    except Exception:  # See `decode_image`, which tells what is wrong.
        return None


def flatten(image: DecodedImage, background: int = 255) -> np.ndarray:
    """Composites an image over a grey background.

    Args:
      image: the image.
      background: the background's value in all three channels, 0 to 255.

    Returns:
      uint8 [H, W, 3]: ``alpha * rgb + (1 - alpha) * background``, rounded to nearest.
    """
    if image.alpha is None:
        return image.rgb
    flat = np.empty_like(image.rgb)
    for rows in _bands(image.alpha.shape):
        alpha = image.alpha[rows, :, None].astype(np.uint16)
        # At most 255 * 255 + 127, which 16 bits hold. 255 is odd, so there are no ties and the
        # integer form rounds as the real numbers do.
        flat[rows] = (image.rgb[rows] * alpha + background * (255 - alpha) + 127) // 255
    return flat


def unflatten(rgb: np.ndarray, alpha: np.ndarray, background: int = 255) -> np.ndarray:
    """Takes the background out of an image again, for writing it with its alpha.

    The inverse of ``flatten`` up to rounding, where alpha is not zero; the colour under full
    transparency is the composite's.

    Args:
      rgb: uint8 [H, W, 3], composited over the background.
      alpha: uint8 [H, W].
      background: the background's value in all three channels, 0 to 255.

    Returns:
      uint8 [H, W, 3]: ``(rgb - (1 - alpha) * background) / alpha``, rounded and clipped.
    """
    colors = np.empty_like(rgb)
    for rows in _bands(alpha.shape):
        flat, weight = rgb[rows].astype(np.float32), alpha[rows, :, None].astype(np.float32)
        # Whole numbers below 2**16, so that the quotient rounds as the exact one does.
        scaled = 255 * flat - (255 - weight) * background
        color = np.where(weight > 0, scaled / np.maximum(weight, 1), flat)
        colors[rows] = np.clip(np.round(color), 0, 255)
    return colors


def encode_png(rgb: np.ndarray) -> bytes:
    """Encodes uint8 [H, W, 3] as PNG, without loss."""
    buffer = io.BytesIO()
    # Level 3 packs photographs within a few percent of the default 6 in a fraction of the time.
    Image.fromarray(rgb).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def encode_image(
    rgb: np.ndarray,
    alpha: np.ndarray | None,
    form: ImageFormat,
    name: str = "the image",
    *,
    quality: int | None = None,
    metadata: Metadata | None = None,
) -> bytes:
    """Encodes an image file in sRGB: PNG and WebP without loss, JPEG in full chroma.

    Args:
      rgb: uint8 [H, W, 3].
      alpha: uint8 [H, W] or None. JPEG cannot hold it.
      form: the format.
      name: what errors call the image.
      quality: 1 to 100, of JPEG, where None is 95, and of WebP, where None is without loss; PNG
        does not use it.
      metadata: what is written beside the pixels. WebP holds the DPI in EXIF only.

    Raises:
      UserError: alpha with JPEG, or a side is longer than the format allows.
      ValueError: the arrays have another shape or dtype.
    """
    if alpha is not None and form == "jpeg":
        raise UserError(f"{name}: JPEG holds no transparency; use .png or .webp")
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"rgb must be uint8 [H, W, 3], got {rgb.dtype} {rgb.shape}")
    if alpha is not None and (alpha.dtype != np.uint8 or alpha.shape != rgb.shape[:2]):
        raise ValueError(
            f"alpha must be uint8 {rgb.shape[:2]} like rgb, got {alpha.dtype} {alpha.shape}"
        )
    if max(rgb.shape) > (longest := _LONGEST_SIDE.get(form, MAX_PIXELS)):
        raise UserError(
            f"{name}: a side of {max(rgb.shape)} pixels is more than {form} holds, {longest}; "
            "write a PNG"
        )
    image = Image.fromarray(rgb if alpha is None else np.dstack([rgb, alpha]))
    options: dict[str, Any] = {}
    if metadata is not None:
        exif = exif_with_dpi(metadata) if form == "webp" else metadata.exif
        said = {"exif": exif, "dpi": metadata.dpi}
        options = {name: value for name, value in said.items() if value is not None}
    buffer = io.BytesIO()
    if form == "png":
        chunks = PngImagePlugin.PngInfo()
        chunks.add(b"sRGB", b"\0")
        image.save(buffer, "PNG", pnginfo=chunks, **options)
    elif form == "webp":
        # exact keeps the colors below full transparency.
        lossy = {"lossless": True} if quality is None else {"quality": quality}
        image.save(buffer, "WEBP", exact=True, **lossy, **options)
    else:
        quality = _JPEG_QUALITY if quality is None else quality
        image.save(buffer, "JPEG", quality=quality, subsampling=0, **options)
    return buffer.getvalue()


def write_image(
    path: str | os.PathLike[str],
    rgb: np.ndarray,
    alpha: np.ndarray | None = None,
    *,
    quality: int | None = None,
    metadata: Metadata | None = None,
) -> None:
    """Writes an image file whole or not at all; readers never see half of it.

    The suffix chooses the format, see `encode_image`.

    Args:
      path: the file, replaced if it exists; its folder must exist.
      rgb: uint8 [H, W, 3].
      alpha: uint8 [H, W] or None. JPEG cannot hold it.
      quality: of JPEG and WebP, see `encode_image`.
      metadata: what is written beside the pixels.

    Raises:
      UserError: unknown suffix, alpha with JPEG, or the file cannot be written.
      ValueError: the arrays have another shape or dtype.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMAT_OF:
        raise UserError(f"{path}: suffix {suffix!r} is none of {', '.join(FORMAT_OF)}; use one")
    data = encode_image(
        rgb, alpha, FORMAT_OF[suffix], shown(path), quality=quality, metadata=metadata
    )
    try:
        with storage.written_whole(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise UserError(
            f"{shown(path)} cannot be written ({_one_line(error)}); check its folder and the free "
            "space"
        ) from error


def list_images(folder: str | os.PathLike[str], recursive: bool = False) -> list[Path]:
    """Lists the images of a folder, see `find_images`, and logs which files are passed over."""
    images, others = find_images(folder, recursive)
    if others:
        named = ", ".join(path.name for path in others[:_MOST_NAMED])
        more = f" and {len(others) - _MOST_NAMED} more" if len(others) > _MOST_NAMED else ""
        files = "1 file" if len(others) == 1 else f"{len(others)} files"
        logging.warning("%s: passed over %s of other kinds: %s%s", folder, files, named, more)
    return images


def find_images(
    folder: str | os.PathLike[str], recursive: bool = False
) -> tuple[list[Path], list[Path]]:
    """Finds the images of a folder by their suffixes, in any case, in a stable order.

    Args:
      folder: where to look, see `file_tree.walk`.
      recursive: whether to look in the folders below as well.

    Returns:
      At least one image, and the files that are passed over because of their suffix; both sorted by
      the path below ``folder``.

    Raises:
      UserError: ``folder`` is missing, is no folder, or holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {state}; name a folder with images")
    try:
        files = [Path(entry.path) for entry in walk(folder, recursive)]
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({_one_line(error)}); check it") from error
    files.sort(key=lambda path: path.relative_to(folder).as_posix())
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not images:
        raise UserError(f"{folder} holds no image; put {', '.join(SUFFIXES)} files in it")
    return images, [path for path in files if path.suffix.lower() not in SUFFIXES]


def _checked_kind(data: bytes, name: str, most_pixels: int, trusted: bool) -> str:
    """Pillow's name for the kind of a file that its decoder may be given."""
    if not data:
        raise UserError(f"{name} is empty; replace it with a {image_kinds.NAMES} image")
    kind = image_kinds.kind_of(data)
    if kind is None:
        raise UserError(f"{name} is not a {image_kinds.NAMES} image; convert it or remove it")
    image_kinds.check(data, kind, name, most_pixels, trusted)
    return kind


class _Bounded(io.BytesIO):
    """A file that may be read so many times."""

    _reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads += 1
        if self._reads > _MOST_READS:
            raise OSError("it has too many pieces")
        return super().read(size)


def _upright(image: Image.Image) -> Image.Image:
    """The image as its EXIF orientation says."""
    image.load()  # EXIF may come behind the pixels.
    try:
        turn = _TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # Of whatever kind, it does not spoil the picture.
        turn = None
    return image if turn is None else image.transpose(turn)


def _profile(image: Image.Image, chunks: dict[bytes, bytes], data: bytes) -> bytes | None:
    """The ICC profile of an image as Pillow opened it, or one that stands for what it states."""
    if image.format == "PNG":
        return image_color.png_profile(chunks)
    profile = image.info.get("icc_profile")
    if profile:
        return bytes(profile)
    if image.format in ("AVIF", "HEIF"):
        place = data.find(b"colrnclx")
        if 0 <= place <= len(data) - 12:
            return image_color.coded_profile(*struct.unpack_from(">HH", data, place + 8))
    if image.mode == "LAB":
        return image_color.lab_profile()
    return image_color.adobe_profile() if _states_adobe(image) else None


def _states_adobe(image: Image.Image) -> bool:
    """Whether EXIF says Adobe RGB as cameras do (DCF 2.0): uncalibrated, by option R03."""
    if image.mode != "RGB" or "exif" not in image.info:
        return False
    try:
        exif = image.getexif()
        stated = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace)
        return stated == _UNCALIBRATED and exif.get_ifd(ExifTags.IFD.Interop).get(1) == "R03"
    except Exception:  # Of whatever kind, it does not spoil the picture.
        return False


def _to_arrays(image: Image.Image, profile: bytes | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Turns any Pillow mode of the kinds that are read into uint8 sRGB and alpha."""
    transparency = image.info.get("transparency")
    alpha = None
    if image.mode.startswith("I;16"):
        # Gray of 16 bits, which Pillow's convert() clips at 255.
        wide = np.asarray(image).astype(np.uint16)
        if transparency is not None:
            alpha = np.where(wide == transparency, 0, 255).astype(np.uint8)
        image = Image.fromarray(((wide.astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif transparency is not None or "A" in image.getbands():
        rgba = np.array(image.convert("RGBA"))
        alpha = rgba[..., 3].copy()
        if profile is None:
            return np.ascontiguousarray(rgba[..., :3]), alpha
        gray = image.mode in ("1", "L", "LA")
        image = Image.fromarray(np.ascontiguousarray(rgba[..., 0] if gray else rgba[..., :3]))
    if profile is not None:
        if image.mode not in ("L", "RGB", "CMYK", "LAB"):
            image = image.convert("L" if image.mode == "1" else "RGB")
        image = image_color.to_srgb(image, profile)
    return np.array(image.convert("RGB")), alpha


def _bands(shape: tuple[int, ...]) -> Iterator[slice]:
    """Bands of rows of an image, so that what is computed of one at a time takes little memory."""
    rows = max(1, _BAND_PIXELS // shape[1])
    return (slice(first, first + rows) for first in range(0, shape[0], rows))


def _too_large(name: str, most_pixels: int) -> UserError:
    return UserError(f"{name} has more than {most_pixels} pixels; scale it down first")


def _one_line(error: Exception) -> str:
    """The reason alone: an OSError's own text would repeat the path."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(reason.split())
