"""Image files in and out of numpy, on the host.

Images are uint8 [H, W, 3] in RGB order, with a separate alpha channel where the file has one.
Whatever is wrong with a file ends in a ``UserError`` of one line that names it.
"""

import io
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from warp_translate.errors import UserError

MAX_PIXELS = 89_478_485
"""The size above which Pillow suspects a decompression bomb; larger images are refused."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""The file names that count as images, in lower case."""

ImageFormat = Literal["png", "jpeg", "webp"]

_FORMAT_OF: dict[str, ImageFormat] = {
    **{".png": "png", ".jpg": "jpeg"},
    **{".jpeg": "jpeg", ".webp": "webp"},
}
_FORMATS = ("PNG", "JPEG", "WEBP")
_JPEG_QUALITY = 95

# Pillow takes time for every piece of a file and keeps some of them, libjpeg goes over the whole
# image for every scan. Files that are pictures have a few thousand of the one, ten of the other.
_MOST_READS, _MOST_SCANS = 1 << 19, 100

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
    """

    rgb: np.ndarray
    alpha: np.ndarray | None


def read_image(path: str | os.PathLike[str]) -> DecodedImage:
    """Reads a JPEG, PNG or WebP file.

    Args:
      path: the file.

    Returns:
      The image; see `decode_image`.

    Raises:
      UserError: the file is missing, unreadable, empty, damaged, too large or no image.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; check the path") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder, not an image; name a file in it") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({_one_line(error)}); check the path") from error
    return decode_image(data, os.fspath(path))


def decode_image(data: bytes, name: str, *, most_pixels: int = MAX_PIXELS) -> DecodedImage:
    """Decodes a JPEG, PNG or WebP image.

    Grey, palette, CMYK and transparent images become RGB with or without alpha. Grey of 16 bits is
    divided by 257 and rounded; of colours of 16 bits Pillow keeps the high byte, which differs from
    that by 1 at most. Of an animation the first frame is taken. EXIF that cannot be read is passed
    over.

    Args:
      data: the encoded file.
      name: what errors call the image, usually its path.
      most_pixels: larger images are refused before they are unpacked; `MAX_PIXELS` at most.

    Returns:
      The image, uint8, at least 1x1.

    Raises:
      UserError: the data are empty, damaged, no image, made to take long, or hold more pixels.
      MemoryError: the image does not fit into memory.
    """
    if not data:
        raise UserError(f"{name} is empty; replace it with a JPEG, PNG or WebP image")
    # Within a scan these two bytes do not follow each other.
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > _MOST_SCANS:
        raise UserError(f"{name} has more than {_MOST_SCANS} scans; save it as a plain JPEG")
    try:
        with Image.open(_Bounded(data), formats=_FORMATS) as image:
            # Judged from the header: a bomb must be refused before its pixels are unpacked.
            if image.width * image.height > most_pixels:
                raise _too_large(name, most_pixels)
            return _to_arrays(_upright(image))
    except (UserError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name, most_pixels) from error
    except Image.UnidentifiedImageError as error:
        raise UserError(
            f"{name} is not a JPEG, PNG or WebP image; convert it or remove it"
        ) from error
    # Pillow's decoders answer damaged files with OSError, SyntaxError, ValueError, struct.error,
    # EOFError and more; to the user all of them are one thing.
    except Exception as error:
        raise UserError(
            f"{name} is damaged or cut short ({_one_line(error)}); replace or remove it"
        ) from error


def image_size(data: bytes) -> tuple[int, int] | None:
    """Reads the height and the width of a JPEG, PNG or WebP image from its header.

    Args:
      data: the encoded file.

    Returns:
      Height and width in pixels, before the EXIF orientation is applied; None where `decode_image`
      refuses the file.
    """
    try:
        with Image.open(_Bounded(data), formats=_FORMATS) as image:
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
    rgb: np.ndarray, alpha: np.ndarray | None, form: ImageFormat, name: str = "the image"
) -> bytes:
    """Encodes an image file: PNG and WebP without loss, JPEG at quality 95 in full chroma.

    Args:
      rgb: uint8 [H, W, 3].
      alpha: uint8 [H, W] or None. JPEG cannot hold it.
      form: the format.
      name: what errors call the image.

    Raises:
      UserError: alpha with JPEG.
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
    image = Image.fromarray(rgb if alpha is None else np.dstack([rgb, alpha]))
    buffer = io.BytesIO()
    if form == "png":
        image.save(buffer, "PNG")
    elif form == "webp":
        # exact keeps the colours below full transparency.
        image.save(buffer, "WEBP", lossless=True, exact=True)
    else:
        image.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def write_image(
    path: str | os.PathLike[str], rgb: np.ndarray, alpha: np.ndarray | None = None
) -> None:
    """Writes an image file whole or not at all; readers never see half of it.

    The suffix chooses the format: PNG and WebP without loss, JPEG at quality 95 without chroma
    subsampling.

    Args:
      path: the file, replaced if it exists; its folder must exist.
      rgb: uint8 [H, W, 3].
      alpha: uint8 [H, W] or None. JPEG cannot hold it.

    Raises:
      UserError: unknown suffix, alpha with JPEG, or the file cannot be written.
      ValueError: the arrays have another shape or dtype.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: suffix {suffix!r} is none of {', '.join(SUFFIXES)}; use one")
    data = encode_image(rgb, alpha, _FORMAT_OF[suffix], os.fspath(path))
    # In the same folder, because os.replace is atomic only within one file system. Not mkstemp,
    # which would leave the image readable by its owner alone.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"{path} cannot be written ({_one_line(error)}); check its folder and the free space"
        ) from error


def list_images(folder: str | os.PathLike[str], recursive: bool = False) -> list[Path]:
    """Lists the images of a folder by their suffixes, in any case, in a stable order.

    Args:
      folder: where to look. Hidden files and folders are passed over.
      recursive: whether to look in the folders below as well.

    Returns:
      At least one path, sorted by the path below ``folder``.

    Raises:
      UserError: ``folder`` is missing, is no folder, or holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {state}; name a folder with images")
    try:
        found = [
            path
            for path in (folder.rglob("*") if recursive else folder.iterdir())
            if path.suffix.lower() in SUFFIXES
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
            and path.is_file()
        ]
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({_one_line(error)}); check it") from error
    if not found:
        raise UserError(f"{folder} holds no image; put {', '.join(SUFFIXES)} files in it")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


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


def _to_arrays(image: Image.Image) -> DecodedImage:
    """Turns any Pillow mode that the three formats know into uint8 RGB and alpha."""
    transparency = image.info.get("transparency")
    if image.mode.startswith("I"):  # Grey of 16 bits, which Pillow's convert() clips at 255.
        wide = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        grey = ((wide + 128) // 257).astype(np.uint8)
        alpha = None
        if transparency is not None:
            alpha = np.where(wide == transparency, 0, 255).astype(np.uint8)
        return DecodedImage(np.repeat(grey[..., None], 3, axis=2), alpha)
    if transparency is not None or "A" in image.getbands():
        rgba = np.array(image.convert("RGBA"))
        return DecodedImage(np.ascontiguousarray(rgba[..., :3]), rgba[..., 3].copy())
    return DecodedImage(np.array(image.convert("RGB")), None)


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
