import io

import numpy as np
import pytest
from PIL import Image

from warp_translate.image_io import decode_image, encode_image
from warp_translate.image_metadata import Metadata

PHOTO, LOCATION = 0x8769, 0x8825


def photograph(file_format="JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x010F], exif[0x8298], exif[0x0112] = "Maker", "(c) Somebody", 6
    exif[0x011A] = exif[0x011B] = 240.0
    exif[0x0128] = 2
    exif[0x02BC] = b"<x:xmpmeta/>"
    exif[PHOTO] = {
        **{0x9003: "2020:01:02 03:04:05", 0x829A: 0.01, 0xA001: 0xFFFF, 0xA002: 8, 0xA003: 4},
        **{0x927C: b"made by the camera", 0xA431: "serial 123", 0xA430: "Somebody"},
    }
    exif[LOCATION] = {1: "N", 2: (47.0, 30.0, 1.0)}
    loaded = Image.Exif()  # As TIFF's writer wants it.
    loaded.load(exif.tobytes())
    buffer = io.BytesIO()
    Image.new("RGB", (8, 4)).save(buffer, file_format, exif=loaded)
    return buffer.getvalue()


def written(data: bytes, form: str, kept: str) -> Image.Image:
    decoded = decode_image(data, "a", kept=kept)
    return Image.open(io.BytesIO(encode_image(decoded.rgb, None, form, metadata=decoded.metadata)))


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("source", ["JPEG", "WEBP", "PNG", "TIFF"])
def test_safe_tags_are_kept_and_the_location_is_not(source, form):
    exif = written(photograph(source), form, "safe").getexif()
    assert exif[0x010F] == "Maker" and exif[0x8298] == "(c) Somebody" and exif[0x011A] == 240
    assert exif.get(0x0112, 1) == 1 and 0x02BC not in exif
    assert exif.get_ifd(PHOTO) == {0x9003: "2020:01:02 03:04:05", 0x829A: 0.01, 0xA001: 1}
    assert not exif.get_ifd(LOCATION)


def test_all_and_nothing():
    exif = written(photograph(), "png", "all").getexif()
    assert exif.get_ifd(LOCATION) == {1: "N", 2: (47.0, 30.0, 1.0)}
    assert exif.get_ifd(PHOTO)[0xA431] == "serial 123" and 0x927C not in exif.get_ifd(PHOTO)
    assert decode_image(photograph(), "a").metadata == Metadata()
    assert not written(photograph(), "jpeg", "drop").getexif()


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_dpi(form):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 4)).save(buffer, "PNG", dpi=(300, 150))
    image = written(buffer.getvalue(), form, "safe")
    named = image.getexif() if form == "webp" else {}
    found = image.info.get("dpi") or (named[0x011A], named[0x011B])
    assert found == pytest.approx((300, 150), abs=0.02)
    assert written(photograph("WEBP"), "jpeg", "safe").info["dpi"] == (240, 240)


def test_a_missing_resolution_is_not_invented():
    """Pillow answers 72 for such a JPEG and 1 for such a TIFF file."""
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    for file_format in ("JPEG", "TIFF"):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 4)).save(buffer, file_format, exif=exif)
        assert decode_image(buffer.getvalue(), "a", kept="safe").metadata.dpi is None


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_unreadable_metadata_is_left_out(rng):
    data = np.frombuffer(photograph("PNG"), np.uint8)
    start = data.tobytes().index(b"eXIf") + 4
    for _ in range(100):
        damaged = np.array(data)
        where = rng.integers(start, start + 200, 6)
        damaged[where] = rng.integers(0, 256, 6)
        # The checksum is wrong too: as a WebP or JPEG has none, it is read without.
        block = b"Exif\0\0" + damaged[start : start + 400].tobytes()
        buffer = io.BytesIO()
        Image.new("RGB", (8, 4)).save(buffer, "JPEG", exif=block)
        decoded = decode_image(buffer.getvalue(), "a", kept="all")
        assert encode_image(decoded.rgb, None, "jpeg", metadata=decoded.metadata)


def test_a_written_png_states_srgb():
    data = encode_image(np.zeros((2, 2, 3), np.uint8), None, "png")
    assert data[33:].startswith(b"\0\0\0\1sRGB\0")
