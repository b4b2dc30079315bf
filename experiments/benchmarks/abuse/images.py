"""Image files that are damaged, lie about their size, expand enormously, or are only unusual."""

import io
import random
import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from experiments.benchmarks.abuse.case import OK, REFUSED, Case, Target, case, encode, form, request


class Images:
    """Requests whose fault is in the image; each method is a family of them."""

    def __init__(self, files: Sequence[bytes], to: Target, rng: random.Random) -> None:
        """Reads the images.

        Args:
          files: image files that can be read, preferably JPEG.
          to: where they are sent; its image must be the first of them.
          rng: source of all randomness.
        """
        self._to, self._rng = to, rng
        self._image = Image.open(io.BytesIO(to.png))
        self._jpeg = encode(self._image, "JPEG")
        self._encodings = _encodings(self._image)
        self._files = {f"file {place}": data for place, data in enumerate(files)}
        self._files |= self._encodings

    def families(self) -> dict[str, Iterator[Case]]:
        """Returns the cases of each family."""
        return {
            "mutated": self.mutated(110),
            "truncated": self._truncated(),
            "joined": self._joined(),
            "lying header": self._lying(),
            "bomb": self._bombs(),
            "animated": self._animated(),
            "odd": self._odd(),
        }

    def mutated(self, count: int) -> Iterator[Case]:
        """Yields files with bytes replaced, inserted, deleted or moved."""
        rng = self._rng
        for _ in range(count):
            name, whole = rng.choice(list(self._files.items()))
            data = bytearray(whole)
            end = 700 if rng.random() < 0.6 else len(data)  # Mostly in the header.
            for _ in range(rng.choice([1, 1, 2, 5, 20])):
                place, length = rng.randrange(min(len(data), end)), rng.randrange(1, 9)
                other = rng.randrange(len(data))
                data[place : place + rng.choice([length, 0])] = rng.choice(
                    [rng.randbytes(length), b"", data[other : other + 16]]
                )
                data = data or bytearray(1)
            yield self._either(name, bytes(data))

    def _send(self, data: bytes) -> bytes:
        return request(data, self._to.path)

    def _either(self, name: str, data: bytes) -> Case:
        """Returns the case of a file that may be readable or not."""
        return case(name, self._send(data), image=data)

    def _truncated(self) -> Iterator[Case]:
        for name, data in self._files.items():
            for end in (self._rng.randrange(1, 60), self._rng.randrange(60, len(data))):
                yield self._either(name, data[:end])

    def _joined(self) -> Iterator[Case]:
        """Yields concatenated files, files after other bytes, and files with a wrong name."""
        for name, data in self._files.items():
            yield self._either(
                f"{name} and another", data + self._rng.choice([*self._files.values()])
            )
            wrong = self._rng.choice(["a.gif", "a.html", "a.jpg.exe", "a", ".png", "a.svg"])
            sent = form([(f'name="image"; filename="{wrong}"', data)], self._to.path)
            yield case(f"{name} called {wrong}", sent, image=data)
        for head in (b"<script>", b"PK\3\4", b"\n \t"):
            yield self._either(f"after {head!r}", head + self._to.png)
        for text in (
            b"<svg onload=alert(1)>",
            b"%PDF-1.7",
            b"#!/bin/sh\nid",
            bytes(999),
            b"P6 9 9",
        ):
            yield self._either(f"not an image: {text[:6]!r}", text)

    def _lying(self) -> Iterator[Case]:
        """Yields headers with other dimensions than the data."""
        sides = (0, 1, 50, 1500, 65535, (1 << 31) - 1, (1 << 32) - 1)
        for height, width in [*zip(sides, sides, strict=True), (1, 1 << 30), (1 << 30, 1)]:
            data = _png(height, width, zlib.compress(bytes(3000)))
            yield self._either(f"png {height}x{width}", data)
        place = self._jpeg.index(b"\xff\xc0") + 5
        for sides in ((0, 0), (0, 9), (1, 1), (700, 700), (65535, 65535), (1, 65535)):
            data = _replace(self._jpeg, place, struct.pack(">HH", *sides))
            yield self._either(f"jpeg {sides}", data)
        for layers in (0, 2, 5, 255):
            data = _replace(self._jpeg, place + 4, bytes([layers]))
            yield self._either(f"jpeg of {layers} layers", data)
        webp = self._encodings["webp"]
        for side in (0, 1, 1000, 16383):
            yield self._either(f"webp {side}", _replace(webp, 26, struct.pack("<HH", side, side)))
        lossless = encode(self._image, "WEBP", lossless=True)
        lossless = _replace(lossless, 21, struct.pack("<I", 16382 | 16382 << 14))
        yield self._either("lossless webp", lossless)
        canvas = b"VP8X\x0a\0\0\0\0\0\0\0" + (16382).to_bytes(3, "little") * 2 + webp[12:]
        head = b"RIFF" + struct.pack("<I", len(canvas) + 4) + b"WEBP"
        yield self._either("webp canvas", head + canvas)

    def _bombs(self) -> Iterator[Case]:
        png, jpeg = self._to.png, self._jpeg
        zeros, few = zlib.compress(bytes(60_000_000), 9), zlib.compress(bytes(2_000))
        side = 20_000
        flat = zlib.compress(bytes((side // 8 + 1) * side), 9)
        tags = [(0x9000 + tag, 7, 3_000_000, bytes(4)) for tag in range(300)]
        heavy = _ifd(*tags, more=bytes(3_100_000))
        pieces = [b"Exif\0\0" + heavy[at : at + 60_000] for at in range(0, len(heavy), 60_000)]
        refused = {
            "png of 400 million pixels": _png(side, side, flat, 1, 0),
            "png just over the limit": _png(1415, 1415, zlib.compress(bytes(1415 * 4246))),
            "png of 60 MB in place of 5 MB": _png(1500, 1500, zeros),
            "gif of 65535 by 65535": b"GIF89a" + b"\xff" * 4 + bytes(40),
            "a million chunks": _insert(png, chunk(b"prVt", b"") * 1_200_000),
            "a million texts": _insert(png, chunk(b"tEXt", b"a\0b") * 900_000),
            "four million markers": _insert(jpeg, b"\xff\xfe\0\2" * 3_900_000),
            "15 MB of fill bytes": _insert(jpeg, b"\xff" * 15_000_000),
            "20000 scans": _scans(1400, 20_000),
            "webp of 9 million pixels": encode(Image.new("RGB", (3000, 3000)), "WEBP", method=0),
        }
        circle = _ifd((0x8769, 4, 1, b"\x08\0\0\0"))
        either = {
            "png of 60 MB after its pixels": _png(8, 8, zeros),
            "zTXt of 60 MB": _insert(png, chunk(b"zTXt", b"name\0\0" + zeros)),
            "iTXt of 60 MB": _insert(png, chunk(b"iTXt", b"name\0\1\0\0\0" + zeros)),
            "profile of 60 MB": _insert(png, chunk(b"iCCP", b"name\0\0" + zeros)),
            "5000 texts": _insert(png, chunk(b"zTXt", b"name\0\0" + few) * 5000),
            "large EXIF in png": _insert(png, chunk(b"eXIf", heavy)),
            "large EXIF in webp": encode(self._image, "WEBP", exif=b"Exif\0\0" + heavy),
            "large EXIF in jpeg": _insert(jpeg[20:], *(_segment(0xE1, each) for each in pieces)),
            "cyclic EXIF": _insert(jpeg, _segment(0xE1, b"Exif\0\0" + circle)),
        }
        for files, statuses in ((refused, REFUSED), (either, REFUSED | OK)):
            for name, data in files.items():
                yield case(name, self._send(data), statuses)

    def _animated(self) -> Iterator[Case]:
        """Yields animations, whose first frame is translated."""
        frames = [self._image.transpose(Image.Transpose(turn)) for turn in (0, 1, 3)]
        options = {"save_all": True, "append_images": frames * 3, "duration": 40}
        for format in ("WEBP", "PNG", "GIF"):
            data = encode(self._image, format, **options)
            yield case(format, self._send(data), OK, size=self._to.size)
            for part in range(2, 7):  # The first frame may be whole.
                cut = data[: len(data) * part // 7]
                yield case(f"{format}, {part}/7", self._send(cut), REFUSED | OK)
        colors = [(place % 256, place // 256, 0) for place in range(2000)]
        frames = [Image.new("RGB", (4, 4), color) for color in colors]
        many = encode(frames[0], "WEBP", save_all=True, append_images=frames)
        yield case("2000 frames", self._send(many), size=(4, 4))

    def _odd(self) -> Iterator[Case]:
        """Yields unusual files that can be read."""
        image, jpeg, png = self._image, self._jpeg, self._to.png
        turned = (0x0112, 3, 1, b"\6\0\0\0")
        exifs = {
            "no EXIF": b"junk",
            "short EXIF": _ifd(turned)[:20],
            "EXIF of wrong types": _ifd(turned, (0x013B, 5, 1, b"\x26\0\0\0"), more=bytes(8)),
            "EXIF beyond the end": _ifd(turned, (0x9286, 7, 50, b"\xff\xff\xff\x7f")),
            "EXIF with text for numbers": _ifd((0x0112, 2, 2, b"6\0\0\0")),
            "cyclic EXIF": _ifd(turned, (0x8769, 4, 1, b"\x08\0\0\0")),
        }
        files = {
            "ICC profile out of order": _insert(jpeg, _segment(0xE2, b"ICC_PROFILE\0\7\2junk")),
            "bad MPF": _insert(jpeg, _segment(0xE2, b"MPF\0" + _ifd((0xB001, 4, 9, b"aaaa")))),
            "short Adobe segment": _insert(jpeg, _segment(0xED, b"Photoshop 3.0\x008BIM\0")),
        }
        for name, data in self._encodings.items():
            if name not in ("gif", "tiff", "bmp", "turned jpeg"):
                files[name] = data
        for name, profile in (("bad profile", b"junk"), ("large profile", bytes(900_000))):
            for format in ("JPEG", "PNG", "WEBP"):
                files[f"{name}, {format}"] = encode(image, format, icc_profile=profile)
        for name, exif in exifs.items():  # It may turn the image or not.
            for data in (
                _insert(jpeg, _segment(0xE1, b"Exif\0\0" + exif)),
                _insert(png, chunk(b"eXIf", exif)),
                encode(image, "WEBP", exif=exif),
            ):
                yield case(name, self._send(data), OK)
        for name, data in files.items():
            yield case(name, self._send(data), OK, size=self._to.size)
        for size in ((1, 1), (1, 3000), (3000, 1), (2, 65)):
            data = encode(Image.new("RGB", size[::-1], (9, 99, 199)), "PNG")
            yield case(f"{size}", self._send(data), OK, size=size)


def chunk(name: bytes, data: bytes) -> bytes:
    """Returns a chunk of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _encodings(image: Image.Image) -> dict[str, bytes]:
    wide = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = image.convert("RGBA")
    clear.putalpha(image.convert("L"))
    return {
        "progressive jpeg": encode(image, "JPEG", progressive=True),
        "turned jpeg": encode(image, "JPEG", exif=exif),
        "cmyk jpeg": encode(image.convert("CMYK"), "JPEG"),
        "png": encode(image, "PNG"),
        "clear png": encode(clear, "PNG"),
        "palette png": encode(image.quantize(16), "PNG"),
        "16-bit png": encode(wide, "PNG"),
        "webp": encode(image, "WEBP"),
        "lossless webp": encode(clear, "WEBP", lossless=True),
        **{name: encode(image, name.upper()) for name in ("gif", "tiff", "bmp")},
    }


def _segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def _png(height: int, width: int, packed: bytes, depth: int = 8, color: int = 2) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    chunks = (chunk(b"IHDR", head), chunk(b"IDAT", packed), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _ifd(*entries: tuple[int, int, int, bytes], more: bytes = b"") -> bytes:
    """Returns EXIF with entries of tag, type, count, and value or offset."""
    body = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4) + more


def _insert(data: bytes, *parts: bytes) -> bytes:
    """Inserts chunks or segments after the start of a PNG (its IHDR) or JPEG file."""
    place = 33 if data.startswith(b"\x89PNG") else 2
    return data[:place] + b"".join(parts) + data[place:]


def _replace(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


def _scans(side: int, times: int) -> bytes:
    """Returns a progressive JPEG that repeats a scan of all its blocks."""
    data = encode(Image.new("L", (side, side)), "JPEG", progressive=True)
    starts = [place for place in range(len(data)) if data[place : place + 2] == b"\xff\xda"]
    # Each scan follows a table of its own.
    first, second = (data.rfind(b"\xff\xc4", 0, start) for start in starts[1:3])
    return data[:first] + data[first:second] * times + data[first:]
