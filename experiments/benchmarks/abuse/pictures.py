"""Files that are spoilt, lie, unfold to far more than they are, or are only unusual."""

import io
import random
import struct
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from experiments.benchmarks.abuse.case import REFUSED, Case, encode, form, request


def drawn(seed: int) -> list[bytes]:
    """Smooth pictures of several sizes as JPEG files."""
    chance = np.random.default_rng(seed)
    made = []
    for height, width in ((96, 128), (120, 90), (64, 64)):
        small = chance.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        made.append(encode(picture, "JPEG", quality=90))
    return made


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def _png(height: int, width: int, packed: bytes, depth: int = 8, colour: int = 2) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


def _ifd(*entries: tuple[int, int, int, bytes], more: bytes = b"") -> bytes:
    """EXIF with entries of tag, type, count and value or offset."""
    body = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4) + more


def _insert_jpeg(data: bytes, *segments: bytes) -> bytes:
    return data[:2] + b"".join(segments) + data[2:]


def _insert_png(data: bytes, *chunks: bytes) -> bytes:
    return data[:33] + b"".join(chunks) + data[33:]  # Behind the signature and IHDR.


def _scans(side: int, times: int) -> bytes:
    """A progressive JPEG that says the same of all its blocks again and again."""
    data = encode(Image.new("L", (side, side)), "JPEG", progressive=True)
    starts = [place for place in range(len(data)) if data[place : place + 2] == b"\xff\xda"]
    # Every scan comes behind a table of its own.
    first, second = (data.rfind(b"\xff\xc4", 0, start) for start in starts[1:3])
    return data[:first] + data[first:second] * times + data[first:]


class Pictures:
    """Makes the requests whose malice is in the picture."""

    def __init__(self, pictures: Sequence[bytes], path: str, chance: random.Random) -> None:
        """Reads the pictures.

        Args:
          pictures: files that can be read, JPEG best of all.
          path: where they are to be sent.
          chance: all that is left to it.
        """
        self._path, self._chance = path, chance
        small = []
        for data in pictures:
            opened = Image.open(io.BytesIO(data)).convert("RGB")
            opened.thumbnail((160, 160))
            small.append(opened)
        self._small = small[0]
        self._good = encode(small[0], "PNG")
        self._jpeg = encode(small[0], "JPEG")
        self._size = small[0].height, small[0].width
        self._files = [(f"jpeg {place}", data) for place, data in enumerate(pictures)]
        for place, picture in enumerate(small[:2]):
            self._files += [
                (f"{name} {place}", data) for name, data in self._encodings(picture).items()
            ]

    def families(self) -> list[Callable[[], list[Case]]]:
        """What makes the cases of each family."""
        return [
            *(lambda: self.mutated(110), self._truncated, self._joined, self._lying),
            *(self._bombs, self._animated, self._odd),
        ]

    def mutated(self, count: int) -> list[Case]:
        """Files with bytes changed, put in, left out or moved."""
        made = []
        for _ in range(count):
            name, whole = self._chance.choice(self._files)
            data = bytearray(whole)
            # Most of the time where the structure is.
            head = self._chance.random() < 0.6
            for _ in range(self._chance.choice([1, 1, 2, 5, 20])):
                place = self._chance.randrange(min(len(data), 700) if head else len(data))
                kind = self._chance.randrange(6)
                if kind < 3:
                    data[place] = self._chance.randrange(256)
                elif kind == 3:
                    data[place:place] = self._chance.randbytes(self._chance.randrange(1, 9))
                elif kind == 4:
                    del data[place : place + self._chance.randrange(1, 9)]
                else:
                    other = self._chance.randrange(len(data))
                    data[place : place + 16] = data[other : other + 16]
            made.append(self._of("mutated", name, bytes(data)))
        return made

    def _of(self, family: str, name: str, data: bytes) -> Case:
        """A file that is readable or not; whoever sends it finds out."""
        return Case(family, name, (request(data, self._path),), picture=data)

    def _encodings(self, picture: Image.Image) -> dict[str, bytes]:
        wide = np.asarray(picture.convert("L")).astype(np.uint16) * 257
        exif = Image.Exif()
        exif[0x0112] = 6
        clear = picture.convert("RGBA")
        clear.putalpha(picture.convert("L"))
        return {
            "progressive jpeg": encode(picture, "JPEG", progressive=True),
            "turned jpeg": encode(picture, "JPEG", exif=exif),
            "cmyk jpeg": encode(picture.convert("CMYK"), "JPEG"),
            "png": encode(picture, "PNG"),
            "clear png": encode(clear, "PNG"),
            "palette png": encode(picture.quantize(16), "PNG"),
            "16-bit png": encode(Image.fromarray(wide), "PNG"),
            "webp": encode(picture, "WEBP"),
            "lossless webp": encode(clear, "WEBP", lossless=True),
            "gif": encode(picture, "GIF"),
            "tiff": encode(picture, "TIFF"),
            "bmp": encode(picture, "BMP"),
        }

    def _truncated(self) -> list[Case]:
        made = []
        for name, data in self._files:
            for end in (self._chance.randrange(1, 60), self._chance.randrange(60, len(data))):
                made.append(self._of("truncated", name, data[:end]))
        return made

    def _joined(self) -> list[Case]:
        """Files behind each other, behind rubbish, and under other names."""
        made = []
        for place, (name, data) in enumerate(self._files):
            other = self._files[(place + 3) % len(self._files)][1]
            made.append(self._of("joined", f"{name} and another", data + other))
            wrong = self._chance.choice(["a.gif", "a.html", "a.jpg.exe", "a", ".png", "a.svg"])
            sent = form([(f'name="image"; filename="{wrong}"', data)], path=self._path)
            made.append(Case("joined", f"{name} called {wrong}", (sent,), picture=data))
        for name, head in (("script", b"<script>"), ("zip", b"PK\3\4"), ("space", b"\n \t")):
            made.append(self._of("joined", f"behind {name}", head + self._good))
        for text in (
            b"<svg onload=alert(1)>",
            b"%PDF-1.7",
            b"#!/bin/sh\nid",
            b"\0" * 999,
            b"P6 9 9",
        ):
            made.append(self._of("joined", f"no picture {text[:6]!r}", text))
        return made

    def _lying(self) -> list[Case]:
        """Headers with other dimensions than the file has."""
        made = []
        sides = (0, 1, 50, 1500, 65535, (1 << 31) - 1, (1 << 32) - 1)
        for height, width in [(side, side) for side in sides] + [(1, 1 << 30), (1 << 30, 1)]:
            packed = zlib.compress(bytes(3000))
            made.append(self._of("lying header", "png", _png(height, width, packed)))
        place = self._jpeg.index(b"\xff\xc0") + 5
        for height, width in ((0, 0), (0, 9), (1, 1), (700, 700), (65535, 65535), (1, 65535)):
            lying = bytearray(self._jpeg)
            lying[place : place + 4] = struct.pack(">HH", height, width)
            made.append(self._of("lying header", "jpeg", bytes(lying)))
        for layers in (0, 2, 5, 255):
            lying = bytearray(self._jpeg)
            lying[place + 4] = layers
            made.append(self._of("lying header", "jpeg layers", bytes(lying)))
        webp = dict(self._files)["webp 0"]
        for side in (0, 1, 1000, 16383):
            lying = bytearray(webp)
            lying[26:30] = struct.pack("<HH", side, side)
            made.append(self._of("lying header", "webp", bytes(lying)))
        lossless = bytearray(encode(self._small, "WEBP", lossless=True))
        lossless[21:25] = struct.pack("<I", 16382 | 16382 << 14)
        made.append(self._of("lying header", "lossless webp", bytes(lossless)))
        canvas = (16382).to_bytes(3, "little") * 2
        extended = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + canvas + webp[12:]
        whole = b"RIFF" + struct.pack("<I", len(extended) + 4) + b"WEBP" + extended
        made.append(self._of("lying header", "webp canvas", whole))
        return made

    def _bombs(self) -> list[Case]:
        zeros = zlib.compress(bytes(60_000_000), 9)
        few = zlib.compress(bytes(2_000))
        side = 20_000
        flat = zlib.compress(bytes((side // 8 + 1) * side), 9)
        name = b"name\0\0"
        jpeg, good, exif = self._jpeg, self._good, b"Exif\0\0"
        tags = [(0x9000 + tag, 7, 3_000_000, bytes(4)) for tag in range(300)]
        heavy = _ifd(*tags, more=bytes(3_100_000))
        pieces = [heavy[at : at + 60_000] for at in range(0, len(heavy), 60_000)]
        refused = {
            "png of 400 million pixels": _png(side, side, flat, 1, 0),
            "png just over the limit": _png(1415, 1415, zlib.compress(bytes(1415 * 4246))),
            "png of 60 MB for 5 MB": _png(1500, 1500, zeros),
            "gif of 65535 by 65535": b"GIF89a" + b"\xff" * 4 + bytes(40),
            "a million chunks": _insert_png(good, chunk(b"prVt", b"") * 1_200_000),
            "a million texts": _insert_png(good, chunk(b"tEXt", b"a\0b") * 900_000),
            "four million markers": _insert_jpeg(jpeg, b"\xff\xfe\0\2" * 3_900_000),
            "15 MB of fill": _insert_jpeg(jpeg, b"\xff" * 15_000_000),
            "20000 scans": _scans(1400, 20_000),
            "webp of 9 million pixels": encode(Image.new("RGB", (3000, 3000)), "WEBP", method=0),
        }
        made = [
            Case("bomb", name, (request(data, self._path),), REFUSED)
            for name, data in refused.items()
        ]
        either = {
            "png of 60 MB for nothing": _png(8, 8, zeros),
            "text of 60 MB": _insert_png(good, chunk(b"zTXt", name + zeros)),
            "international text of 60 MB": _insert_png(
                good, chunk(b"iTXt", b"name\0\1\0\0\0" + zeros)
            ),
            "profile of 60 MB": _insert_png(good, chunk(b"iCCP", name + zeros)),
            "many texts": _insert_png(good, chunk(b"zTXt", name + few) * 5000),
            "EXIF in png": _insert_png(good, chunk(b"eXIf", heavy)),
            "EXIF in webp": encode(self._small, "WEBP", exif=exif + heavy),
            "EXIF in jpeg": _insert_jpeg(jpeg[20:], *(_segment(0xE1, exif + p) for p in pieces)),
            "EXIF in a circle": _insert_jpeg(
                jpeg, _segment(0xE1, exif + _ifd((0x8769, 4, 1, b"\x08\0\0\0")))
            ),
        }
        made += [
            Case("bomb", name, (request(data, self._path),), REFUSED | {200})
            for name, data in either.items()
        ]
        return made

    def _animated(self) -> list[Case]:
        """Of which the first frame is translated."""
        frames = [self._small.transpose(Image.Transpose(turn)) for turn in (0, 1, 3)]
        rest = {"save_all": True, "append_images": frames * 3, "duration": 40}
        made = []
        for name in ("WEBP", "PNG"):
            data = encode(self._small, name, **rest)
            sent = (request(data, self._path),)
            made.append(Case("animated", name, sent, frozenset({200}), size=self._size))
            made += [
                self._of("animated", f"{name} cut", data[: len(data) * part // 7])
                for part in range(2, 7)
            ]
        gif = encode(self._small, "GIF", **rest)
        made.append(Case("animated", "GIF", (request(gif, self._path),), REFUSED))
        many = encode(
            Image.new("RGB", (4, 4)),
            "WEBP",
            save_all=True,
            append_images=[
                Image.new("RGB", (4, 4), (place % 256, place // 256, 0)) for place in range(2000)
            ],
        )
        made.append(Case("animated", "2000 frames", (request(many, self._path),), size=(4, 4)))
        return made

    def _odd(self) -> list[Case]:
        """What is unusual and can be read."""
        plain, jpeg, png = self._small, self._jpeg, self._good
        files = {
            name: data
            for name, data in self._encodings(plain).items()
            if name not in ("gif", "tiff", "bmp", "turned jpeg")
        }
        turned = (0x0112, 3, 1, b"\6\0\0\0")
        exifs = {
            "no EXIF": b"junk",
            "short EXIF": _ifd(turned)[:20],
            "EXIF of wrong types": _ifd(turned, (0x013B, 5, 1, b"\x26\0\0\0"), more=bytes(8)),
            "EXIF far away": _ifd(turned, (0x9286, 7, 50, b"\xff\xff\xff\x7f")),
            "EXIF with text for numbers": _ifd((0x0112, 2, 2, b"6\0\0\0")),
            "EXIF in a circle": _ifd(turned, (0x8769, 4, 1, b"\x08\0\0\0")),
        }
        for name, exif in exifs.items():
            files[f"{name}, jpeg"] = _insert_jpeg(jpeg, _segment(0xE1, b"Exif\0\0" + exif))
            files[f"{name}, png"] = _insert_png(png, chunk(b"eXIf", exif))
            files[f"{name}, webp"] = encode(plain, "WEBP", exif=exif)
        for name, profile in (("no profile", b"junk"), ("huge profile", bytes(900_000))):
            for kind in ("JPEG", "PNG", "WEBP"):
                files[f"{name}, {kind}"] = encode(plain, kind, icc_profile=profile)
        files["profile out of order"] = _insert_jpeg(
            jpeg, _segment(0xE2, b"ICC_PROFILE\0\7\2" + bytes(50))
        )
        files["bad MPF"] = _insert_jpeg(
            jpeg, _segment(0xE2, b"MPF\0" + _ifd((0xB001, 4, 9, b"aaaa")))
        )
        files["short Adobe"] = _insert_jpeg(jpeg, _segment(0xED, b"Photoshop 3.0\x008BIM\0"))
        turned_sizes = {self._size, self._size[::-1]}
        made = []
        for name, data in files.items():
            may_turn = "EXIF" in name and len(turned_sizes) > 1
            made.append(
                Case(
                    *("odd", name, (request(data, self._path),), frozenset({200})),
                    size=None if may_turn else self._size,
                )
            )
        for height, width in ((1, 1), (1, 3000), (3000, 1), (2, 65)):
            data = encode(Image.new("RGB", (width, height), (9, 99, 199)), "PNG")
            sent = (request(data, self._path),)
            made.append(
                Case("odd", f"{height}x{width}", sent, frozenset({200}), size=(height, width))
            )
        return made
