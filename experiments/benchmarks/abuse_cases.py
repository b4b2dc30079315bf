"""Requests that are malformed or hostile, made from pictures and a seed.

Each is what goes over a socket, byte by byte, and what may come back. `server_abuse` sends them.
"""

import dataclasses
import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

SECONDS, MEGABYTES, MEGAPIXELS = 4.0, 16.0, 2.0
"""The limits of the server that the requests are made for."""

REFUSED = frozenset({400, 413})
_NOT_FOUND = frozenset({400, 404, 405})
_EDGE = "edge0f0a0form"


@dataclasses.dataclass(frozen=True)
class Case:
    """A request.

    Attributes:
      family: what kind of malice it is.
      name: which of the kind.
      parts: what is sent: bytes, or seconds to wait.
      statuses: what may be answered; None for anything below 500, and 503.
      picture: the file that is sent, where the answer depends on whether it can be read: 200 and
        its size if so, 400 if not.
      size: height and width of the answer, where it is 200 for certain.
      broken: whether it is not HTTP, and the connection may be closed without an answer.
      method: an answer to HEAD has no body.
      leaves: "whole" if the client closes the connection without waiting for an answer, "half" if
        it says that nothing more comes; else it waits.
    """

    family: str
    name: str
    parts: tuple[bytes | float, ...]
    statuses: frozenset[int] | None = None
    picture: bytes | None = None
    size: tuple[int, int] | None = None
    broken: bool = False
    method: str = "POST"
    leaves: str | None = None


def build(
    pictures: Sequence[bytes], target: str, model: str, factor: int, count: int, seed: int
) -> list[Case]:
    """Makes the requests.

    Args:
      pictures: files that can be read, JPEG best of all.
      target: a domain to which one generator leads.
      model: name of a bundle.
      factor: one of its factors.
      count: at least so many.
      seed: of all that is left to chance.

    Returns:
      All of the families, mixed; none twice.
    """
    made = _Maker(pictures, target, model, factor, random.Random(seed))
    cases = [case for family in made.families() for case in family()]
    while len(cases) < count:
        cases += made.mutated(min(40, count - len(cases)))
    different = {(case.name, case.parts): case for case in cases}
    mixed = list(different.values())
    random.Random(seed).shuffle(mixed)
    return mixed


def drawn(seed: int) -> list[bytes]:
    """Smooth pictures of several sizes as JPEG files."""
    chance = np.random.default_rng(seed)
    made = []
    for height, width in ((96, 128), (120, 90), (64, 64)):
        small = chance.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        made.append(encode(picture, "JPEG", quality=90))
    return made


def encode(picture: Image.Image, form: str, **options: Any) -> bytes:
    """A picture as the bytes of a file."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def request(
    body: bytes,
    path: str = "/v1/translate",
    *headers: str,
    method: str = "POST",
    length: int | None = None,
) -> bytes:
    """A request as it goes over the wire."""
    said = len(body) if length is None else length
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {said}", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin1") + body


def form(
    fields: Iterable[tuple[str | bytes, bytes]], kind: str | None = None, path: str = ""
) -> bytes:
    """A multipart request of contents with their Content-Disposition parameters."""
    parts = []
    for disposition, content in fields:
        text = disposition.encode() if isinstance(disposition, str) else disposition
        parts += [f"--{_EDGE}\r\nContent-Disposition: form-data; ".encode() + text]
        parts += [b"\r\n\r\n" + content + b"\r\n"]
    body = b"".join(parts) + f"--{_EDGE}--\r\n".encode()
    kind = kind or f"multipart/form-data; boundary={_EDGE}"
    return request(body, path or "/v1/translate", f"Content-Type: {kind}")


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


class _Maker:
    """Makes the requests of each family."""

    def __init__(
        self,
        pictures: Sequence[bytes],
        target: str,
        model: str,
        factor: int,
        chance: random.Random,
    ) -> None:
        self._chance = chance
        self._path = f"/v1/translate?target={target}&factor={factor}"
        self._target, self._model, self._factor = target, model, factor
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
            *(lambda: self.mutated(110), self._truncated, self._joined, self._lying, self._bombs),
            *(self._animated, self._odd, self._lengths, self._chunked, self._slow),
            *(self._multipart, self._names, self._queries, self._json, self._methods),
            *(self._floods, self._absurd, self._left),
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

    def _lengths(self) -> list[Case]:
        good = self._good
        made = []
        for more in (1, 1000, 10_000_000):
            sent = request(good, self._path, length=len(good) + more)
            name = f"{more} missing"
            made.append(Case("length", name, (sent,), frozenset({408})))
            made.append(Case("length", f"{name}, closed", (sent,), broken=True, leaves="half"))
            made.append(Case("length", f"{name}, gone", (sent,), broken=True, leaves="whole"))
        sent = form([('name="image"; filename="a.png"', good)], path=self._path)
        body = sent.index(b"\r\n\r\n") + 4
        for end in (body, body + 1, body + 60, body + 500, len(sent) - 30):
            cut = sent[:end]
            made.append(Case("length", f"form cut at {end - body}", (cut,), frozenset({408})))
            made.append(
                Case("length", f"form gone at {end - body}", (cut,), broken=True, leaves="whole")
            )
        less = request(good, self._path, length=len(good) - 100)
        made.append(Case("length", "100 too many", (less,), picture=good[:-100]))
        made.append(Case("length", "none", (request(b"", self._path),), REFUSED))
        for said in ("-1", "abc", "1e3", "0x10", " ", "9" * 30, "5, 6", "+5", "٣"):
            text = request(good, self._path).replace(
                f"Content-Length: {len(good)}".encode(), f"Content-Length: {said}".encode()
            )
            made.append(Case("length", f"says {said[:9]}", (text,), REFUSED, broken=True))
        two = request(good, self._path, "Content-Length: 3")
        made.append(Case("length", "said twice", (two,), REFUSED, broken=True))
        huge = request(b"", self._path, length=17_000_000)
        made.append(Case("length", "17 MB, none of them sent", (huge,), frozenset({413})))
        big = request(bytes(17_000_000), self._path)
        made.append(Case("length", "17 MB", (big,), frozenset({413})))
        return made

    def _chunked(self) -> list[Case]:
        head = f"POST {self._path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n".encode()
        good = self._good

        def piece(data: bytes, size: int | None = None) -> bytes:
            return f"{len(data) if size is None else size:x}\r\n".encode() + data + b"\r\n"

        whole = head + b"\r\n" + piece(good) + b"0\r\n\r\n"
        made = [Case("chunked", "whole", (whole,), frozenset({200}), size=self._size)]
        tiny = b"".join(piece(good[at : at + 1]) for at in range(len(good)))
        parts = (head + b"\r\n" + tiny + b"0\r\n\r\n",)
        made.append(Case("chunked", "by single bytes", parts, frozenset({200}), size=self._size))
        late = {
            "never ends": head + b"\r\n" + piece(good),
            "promises more": head + b"\r\n" + piece(good, len(good) + 999)[:-2],
            "nothing": head + b"\r\n",
            "half a size": head + b"\r\n" + b"1",
        }
        made += [Case("chunked", name, (sent,), frozenset({408})) for name, sent in late.items()]
        made += [
            Case("chunked", f"{name}, gone", (sent,), broken=True, leaves="whole")
            for name, sent in late.items()
        ]
        wrong = {
            "too short": piece(good, len(good) - 9) + b"0\r\n\r\n",
            "no number": b"zz\r\n" + good,
            "negative": b"-5\r\n" + good,
            "huge": b"f" * 40 + b"\r\n" + good,
            "no line end": b"5" + good,
            "endless extension": b"5;" + b"a" * 200_000,
            "endless trailer": piece(good) + b"0\r\n" + b"a: b\r\n" * 30_000,
        }
        made += [
            Case("chunked", name, (head + b"\r\n" + sent,), broken=True)
            for name, sent in wrong.items()
        ]
        both = head + b"Content-Length: 5\r\n\r\n" + piece(good) + b"0\r\n\r\n"
        made.append(Case("chunked", "and a length", (both,), broken=True))
        for coding in (b"gzip", b"chunked, chunked", b"identity", b"xchunked", b""):
            sent = whole.replace(b"Encoding: chunked", b"Encoding: " + coding)
            made.append(Case("chunked", f"coding {coding.decode()}", (sent,), broken=True))
        big = head + b"\r\n" + piece(bytes(1_000_000)) * 17 + b"0\r\n\r\n"
        made.append(Case("chunked", "17 MB", (big,), frozenset({413})))
        return made

    def _slow(self) -> list[Case]:
        """Senders that take their time; with what is below, more than there is."""
        whole = request(self._good, self._path)
        start = whole.index(b"\r\n\r\n") + 4
        drips: list[bytes | float] = [whole[:start]]
        for place in range(start, start + 40):
            drips += [whole[place : place + 1], 0.25]
        made = [Case("slow", "body by drops", tuple(drips), frozenset({408}))]
        drips = []
        for place in range(40):
            drips += [whole[place : place + 1], 0.25]
        made.append(Case("slow", "head by drops", tuple(drips), frozenset({408}), broken=True))
        drips = [whole[: start - 2]]
        for place in range(40):
            drips += [f"X-{place}: a\r\n".encode(), 0.25]
        made.append(Case("slow", "headers for ever", tuple(drips), frozenset({408}), broken=True))
        starts = {"nothing": b"", "a letter": b"P", "a line": whole[:20], "a head": whole[:-9][:60]}
        for name, sent in starts.items():
            made.append(Case("slow", f"only {name}", (sent, 0.01), frozenset({408}), broken=True))
        halves = (whole[:start], 0.5, whole[start : start + 200], 0.5, whole[start + 200 :])
        made.append(Case("slow", "in time", halves, frozenset({200}), size=self._size))
        expects = request(self._good, self._path, "Expect: 100-continue", length=9999)
        made.append(
            Case("slow", "waits to be told", (expects[: -len(self._good)],), frozenset({408}))
        )
        return made

    def _multipart(self) -> list[Case]:
        good = self._good
        image = ('name="image"; filename="a.png"', good)
        right = frozenset({200})
        whole = form([image], path=self._path)
        body = whole[whole.index(b"\r\n\r\n") + 4 :]
        made = []

        def add(name: str, sent: bytes, statuses: frozenset[int] = REFUSED) -> None:
            made.append(Case("multipart", name, (sent,), statuses))

        kinds = {
            "no boundary": "multipart/form-data",
            "empty boundary": "multipart/form-data; boundary=",
            "quote boundary": 'multipart/form-data; boundary="',
            "another boundary": "multipart/form-data; boundary=other",
            "long boundary": "multipart/form-data; boundary=" + "b" * 9000,
            "latin boundary": "multipart/form-data; boundary=\xff\xfe",
            "NUL boundary": "multipart/form-data; boundary=%00",
            "mixed": f"multipart/mixed; boundary={_EDGE}",
            "urlencoded": "application/x-www-form-urlencoded",
        }
        for name, kind in kinds.items():
            add(name, request(body, self._path, f"Content-Type: {kind}"))
        for charset in (
            *("undefined", "idna", "punycode", "hex", "zlib", "rot13", "utf-16", "utf-7", "mbcs"),
            *("unicode_escape", "raw_unicode_escape", "a" * 300, "..", "/etc/passwd", "\x7f", '""'),
        ):
            kind = f"multipart/form-data; boundary={_EDGE}; charset={charset}"
            fields = [image, ('name="format"', b"p\xffng\\ud800\xed\xa0\x80+2AA-.\xc3")]
            add(f"charset {charset[:18]}", form(fields, kind, self._path), REFUSED | right)
        field = ('name="format"', b"png")
        add("many fields", form([image, *[field] * 9], path=self._path))
        add("100000 parts", form([field] * 100_000, path=self._path))
        add("two images", form([image, image], path=self._path))
        add("another file too", form([image, ('name="b"; filename="b"', b"b")], path=self._path))
        add("no image", form([field], path=self._path))
        add("image as a field", form([('name="image"', good)], path=self._path))
        add("image without a name", form([('filename="a.png"', good)], path=self._path))
        add("no parts", form([], path=self._path))
        add("an empty image", form([(image[0], b"")], path=self._path))
        add("2 MB field", form([image, ('name="format"', b"p" * 2_000_000)], path=self._path))
        add("long header", form([(image[0] + "; x=" + "y" * 500_000, good)], path=self._path))
        lines = "".join(f"\r\nX-{place}: a" for place in range(30_000))
        add("many headers", form([(image[0] + lines, good)], path=self._path))
        add("header without a colon", form([(image[0] + "\r\nnonsense", good)], path=self._path))
        add("folded header", form([(image[0] + "\r\n more", good)], path=self._path))
        nested = form([image])
        inner = nested[nested.index(b"\r\n\r\n") + 4 :]
        add(
            "nested",
            form([(f"{image[0]}\r\nContent-Type: multipart/mixed", inner)]),
            REFUSED | {300},
        )
        add(
            "base64",
            form([(f"{image[0]}\r\nContent-Transfer-Encoding: base64", good)], path=self._path),
            REFUSED | right,
        )
        kind = f"Content-Type: multipart/form-data; boundary={_EDGE}"
        add("cut", request(body[:-40], self._path, kind))
        add("LF for CRLF", request(body.replace(b"\r\n", b"\n"), self._path, kind))
        add("edges only", request(f"--{_EDGE}\r\n".encode() * 2000, self._path, kind))
        add("dashes", request(b"-" * 2_000_000, self._path, kind))
        add("line ends", request(b"\r\n" * 1_000_000, self._path, kind))
        for _ in range(20):
            spoilt = bytearray(body)
            for _ in range(self._chance.choice([1, 3])):
                at = self._chance.randrange(120)
                spoilt[at if self._chance.random() < 0.7 else -at - 1] = self._chance.randrange(256)
            add("spoilt", request(bytes(spoilt), self._path, kind), REFUSED | {200, 404})
        return made

    def _names(self) -> list[Case]:
        """Path tricks and worse, in names of files and fields and in paths."""
        tricks = (
            *("../../etc/passwd", "..\\\\..\\\\boot.ini", "/etc/passwd", "C:\\\\x", "a\0.png", ""),
            *("~root", "$(id)", "`id`", "a;b", "%2e%2e%2f", "CON", "😀\u202egnp", "é" * 3000, "."),
            *("a" * 60_000, "\x1b[2J", "<b>", "{{7*7}}", "%s%n", "file:///etc/passwd", "\ud7ff"),
        )
        made = []
        for trick in tricks:
            name = f'name="image"; filename="{trick}"'
            sent = form([(name, self._good)], path=self._path)
            made.append(Case("names", f"file {trick[:12]!r}", (sent,), REFUSED | {200}))
            fields = [('name="image"; filename="a"', self._good), (f'name="{trick}"', b"x")]
            sent = form(fields, path=self._path)
            made.append(Case("names", f"field {trick[:12]!r}", (sent,), REFUSED | {200}))
            fields[1] = ('name="target"', trick.encode())
            made.append(
                Case("names", f"target {trick[:12]!r}", (form(fields),), REFUSED | {200, 404})
            )
        encoded = "name=\"image\"; filename*=utf-8''..%2f..%2fetc"
        made.append(
            Case(
                "names", "file*", (form([(encoded, self._good)], path=self._path),), REFUSED | {200}
            )
        )
        for path in (
            *(
                "/../../etc/passwd",
                "/%2e%2e/%2e%2e/etc/passwd",
                "/..%2f..%2fetc%2fpasswd",
                "//",
                "/.",
            ),
            *(
                "/app.js/../../server.py",
                "/style.css%00",
                "/static/",
                "/page/index.html",
                "/\\..\\",
            ),
            *("/openapi.json/..", "//etc/passwd", "/v1/translate/../../x", "/" + "a" * 9000),
            *("/%", "/%zz", "/%ff%fe", "/%00", "/%0d%0aX: y", "/v2/models/..%2f..", "/;x=y", "/?"),
            *(f"/v2/models/{self._model}%00", "/v2/models/%F0%9F%98%80", "/v1//translate"),
        ):
            sent = request(b"", path, method="GET")
            statuses = _NOT_FOUND | {200} if path in ("/?", "/.", "//") else _NOT_FOUND
            made.append(Case("names", f"GET {path[:24]}", (sent,), statuses, method="GET"))
        return made

    def _queries(self) -> list[Case]:
        good = self._good
        made = []
        tries = [
            *("-1", "0", "1e9", "NaN", "inf", "9" * 5000, "1.5", "+1", "0x2", "%00", "%EF%BC%92"),
            *("2%0a", "%20", "1_0", "99999", "%ff", "[]", "null", "true", "'--", "%C2%B2"),
        ]
        pair = f"/v1/translate?target={self._target}"
        for text in tries:
            sent = request(good, f"{pair}&factor={text}")
            made.append(Case("queries", f"factor={text[:9]}", (sent,), REFUSED))
        controls = (
            "%0a",
            "%0d%0aSet-Cookie:x",
            "%00",
            "%1b[31m",
            "%e2%80%ae",
            "%ff%fe",
            "a" * 9000,
        )
        for text in (*controls, "%ed%a0%80", "../..", "%F0%9F%98%80", "'%20or%201=1", "<script>"):
            for name in ("source", "target"):
                sent = request(good, f"/v1/translate?{name}={text}")
                made.append(Case("queries", f"{name}={text[:12]}", (sent,), _NOT_FOUND))
            for name in ("format", "maps"):
                sent = request(good, f"{pair}&{name}={text}")
                made.append(Case("queries", f"{name}={text[:12]}", (sent,), REFUSED))
        for text in (
            "factor=-1&factor=2",
            "&" * 5000,
            "=" * 5000,
            "a=b&" * 10_000,
            "?" * 50,
            "%" * 999,
        ):
            sent = request(good, f"{pair}&{text}")
            made.append(Case("queries", text[:20], (sent,), REFUSED | {200}))
        return made

    def _json(self) -> list[Case]:
        """To the inference protocol of KServe, and to what takes no JSON."""
        made = []
        image = {"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [0] * 12}

        def changed(**fields: Any) -> bytes:
            return json.dumps({"inputs": [image | fields]}).encode()

        deep = 200_000
        bodies = {
            "nothing": b"",
            "no JSON": b"{",
            "NUL": b"\0" * 50,
            "a picture": self._good,
            "half": b'{"inputs": [{"name": "ima',
            "null": b"null",
            "a list": b"[]",
            "a number": b"1" * 5000,
            "a string": b'"' + b"a" * 100_000 + b'"',
            "a lone surrogate": b'{"id": "\\ud800", "inputs": [{"name": "\\udfff"}]}',
            "latin": b'{"id": "\xff"}',
            "UTF-16": '{"inputs": []}'.encode("utf-16"),
            "UTF-32": '{"inputs": []}'.encode("utf-32"),
            "deep lists": b"[" * deep,
            "deep and closed": b"[" * deep + b"]" * deep,
            "deep objects": b'{"a":' * deep,
            "NaN": b'{"inputs": NaN}',
            "infinite": b'{"inputs": [1e999, -1e999]}',
            "same keys": b'{"inputs": 1, ' + b'"inputs": 2, ' * 9999 + b'"inputs": []}',
            "no inputs": b"{}",
            "inputs null": b'{"inputs": null}',
            "inputs empty": b'{"inputs": []}',
            "inputs of null": b'{"inputs": [null, 1, "a", []]}',
            "many inputs": json.dumps({"inputs": [image] * 5000}).encode(),
            "no data": changed(data=[]),
            "data null": changed(data=None),
            "data a string": changed(data="AAAA"),
            "data too many": changed(data=[0] * 13),
            "data negative": changed(data=[-1] * 12),
            "data of floats": changed(data=[0.5] * 12),
            "data of null": changed(data=[None] * 12),
            "data huge": changed(data=[1 << 900] * 12),
            "data true": changed(data=[True] * 12),
            "data nested": changed(data=[[[[0]]]] * 12),
            "data ragged": changed(data=[[[[0, 0, 0], [0]], [[0, 0, 0]]]]),
            "shape negative": changed(shape=[-1, -2, -2, 3]),
            "shape zero": changed(shape=[0, 2, 2, 3], data=[]),
            "shape huge": changed(shape=[1, 1 << 30, 1 << 30, 3]),
            "shape overflows": changed(shape=[1 << 62, 1 << 62, 4, 3]),
            "shape of floats": changed(shape=[1.0, 2.0, 2.0, 3.0]),
            "shape short": changed(shape=[12]),
            "shape null": changed(shape=None),
            "shape long": changed(shape=[1] * 5000),
            "datatype FP32": changed(datatype="FP32"),
            "datatype BYTES": changed(datatype="BYTES"),
            "datatype 7": changed(datatype=7),
            "name unknown": changed(name="../../etc/passwd"),
            "binary, none there": changed(parameters={"binary_data_size": 12}),
            "binary negative": changed(parameters={"binary_data_size": -12}),
            "binary huge": changed(parameters={"binary_data_size": 1 << 62}),
            "shared memory": changed(parameters={"shared_memory_region": "/dev/shm/x"}),
            "a million objects": b'{"inputs": [' + b"{}," * 1_000_000 + b"{}]}",
        }
        path = f"/v2/models/{self._model}/infer"
        for name, body in bodies.items():
            sent = request(body, path, "Content-Type: application/json")
            made.append(Case("JSON", name, (sent,), REFUSED | {404}))
        for length in ("-1", "999999", "abc", "1e3", "9" * 99, "0", "5"):
            sent = request(changed(), path, f"Inference-Header-Content-Length: {length}")
            made.append(Case("JSON", f"header length {length[:9]}", (sent,), REFUSED | {404}))
        sent = request(changed(), path, "Content-Encoding: gzip")
        made.append(Case("JSON", "said to be gzip", (sent,), REFUSED | {404}))
        for name in ("..%2f..%2fetc", "%00", "x" * 5000, "%F0%9F%98%80", "*", "%0a", "a/b/c"):
            sent = request(changed(), f"/v2/models/{name}/infer")
            made.append(Case("JSON", f"model {name[:12]}", (sent,), _NOT_FOUND))
        for version in ("0", "-1", "9" * 99, "%00", "latest"):
            sent = request(changed(), f"/v2/models/{self._model}/versions/{version}/infer")
            made.append(Case("JSON", f"version {version[:9]}", (sent,), _NOT_FOUND))
        for body in (b"{", b"[]", b"[" * deep, b'{"ready": 1}', b'{"ready": "\\ud800"}'):
            sent = request(body, "/v2/repository/index")
            made.append(Case("JSON", f"index {body[:9].decode()}", (sent,), REFUSED | {404}))
        for path in ("/v1/translate", "/v1/classify"):
            sent = request(changed(), path, "Content-Type: application/json")
            made.append(Case("JSON", f"to {path}", (sent,), REFUSED | {404}))
        return made

    def _methods(self) -> list[Case]:
        made = []
        paths = ("/v1/translate", "/v1/generators", "/health/ready", "/metrics", "/", "/nowhere")
        for method in ("PUT", "DELETE", "PATCH", "TRACE", "BREW", "PROPFIND", "G" * 5000, "get"):
            for path in self._chance.sample(paths, 3):
                sent = request(b"x", path, method=method)
                made.append(
                    Case("methods", f"{method[:9]} {path}", (sent,), _NOT_FOUND, method=method)
                )
        for method in ("GET", "HEAD", "OPTIONS"):
            sent = request(self._good, "/v1/translate", method=method)
            made.append(Case("methods", method, (sent,), frozenset({405}), method=method))
        for path in ("/health/live/", "/v1/generators/", "/metrics/", "/v1/translate/"):
            sent = request(b"", path, "X-Forwarded-Host: evil", method="GET")
            made.append(Case("methods", f"GET {path}", (sent,), _NOT_FOUND | {307}, method="GET"))
        for upgrade in ("websocket", "h2c", "TLS/1.0"):
            lines = (f"Upgrade: {upgrade}", "Connection: Upgrade", "Sec-WebSocket-Key: AA==")
            sent = request(b"", self._path, *lines, "Sec-WebSocket-Version: 13", method="GET")
            made.append(Case("methods", f"upgrade to {upgrade}", (sent,), _NOT_FOUND, method="GET"))
        for method, target in (("CONNECT", "a:443"), ("GET", "http://other/x"), ("OPTIONS", "*")):
            sent = request(b"", target, method=method)
            made.append(Case("methods", f"{method} {target}", (sent,), _NOT_FOUND, broken=True))
        return made

    def _floods(self) -> list[Case]:
        good, path, right = self._good, self._path, frozenset({200})
        made = []
        few = [f"X-{place}: {place}" for place in range(500)]
        made.append(Case("headers", "500", (request(good, path, *few),), right, size=self._size))
        broken = {
            "50000": [f"X-{place}: {place}" for place in range(50_000)],
            "one of 1 MB": ["X-Long: " + "a" * 1_000_000],
            "a name of 1 MB": ["a" * 1_000_000 + ": b"],
            "no colon": ["nonsense"],
            "NUL": ["X-A: a\0b"],
            "a name with spaces": ["X A: b"],
            "folded": ["X-A: b\r\n\tc"],
            "hosts": ["Host: a", "Host: b"],
        }
        for name, lines in broken.items():
            made.append(Case("headers", name, (request(good, path, *lines),), broken=True))
        harmless = {
            "cookies": ["Cookie: " + "a=b; " * 2000],
            "key": ["X-API-Key: \xff\xfe", "Authorization: Bearer"],
            "ranges": ["Range: bytes=0-,0-,0-" * 50],
            "languages": ["Accept: */*;q=NaN", "Accept-Encoding: ,,,;q=9"],
            "forwarded": ["X-Forwarded-For: ::::, \xff", "Forwarded: for=;;;"],
            "continue": ["Expect: 100-continue"],
            "kind": ["Content-Type: " + "a/b;" * 2000],
            "latin kind": ["Content-Type: \xff\xfe"],
        }
        for name, lines in harmless.items():
            made.append(
                Case("headers", name, (request(good, path, *lines),), right, size=self._size)
            )
        made.append(Case("headers", "expects else", (request(good, path, "Expect: 9"),)))
        compressed = request(zlib.compress(good), path, "Content-Encoding: deflate")
        made.append(Case("headers", "compressed", (compressed,), REFUSED))
        return made

    def _absurd(self) -> list[Case]:
        """What is no HTTP, or of another version."""
        whole = request(self._good, self._path)
        texts = {
            "bytes": self._chance.randbytes(3000),
            "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + self._chance.randbytes(500),
            "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
            "HTTP/0.9": b"GET /\r\n\r\n",
            "HTTP/9.9": whole.replace(b"HTTP/1.1", b"HTTP/9.9"),
            "HTTP/1.1.1": whole.replace(b"HTTP/1.1", b"HTTP/1.1.1"),
            "no version": whole.replace(b" HTTP/1.1", b""),
            "lower case": whole.replace(b"HTTP/1.1", b"http/1.1"),
            "line ends": b"\r\n" * 20_000,
            "NUL": b"\0" * 200_000,
            "a line of 1 MB": b"GET /" + b"a" * 1_000_000,
            "spaces": b" " * 200_000,
            "no host": whole.replace(b"Host: localhost\r\n", b""),
            "LF": whole.replace(b"\r\n", b"\n", 4),
            "CR": whole.replace(b"\r\n", b"\r", 4),
            "a path in latin": b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
            "a path with a space": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
            "SMTP": b"HELO a\r\nMAIL FROM:<a>\r\n",
            "SSH": b"SSH-2.0-OpenSSH_9\r\n",
            "JSON": b'{"a": 1}\n',
            "a method with a slash": whole.replace(b"POST", b"PO/ST", 1),
            "no path": whole.replace(self._path.encode(), b"", 1),
        }
        made = [Case("no HTTP", name, (sent,), broken=True) for name, sent in texts.items()]
        old = b"POST " + self._path.encode() + b" HTTP/1.0\r\nContent-Length: "
        old += str(len(self._good)).encode() + b"\r\n\r\n" + self._good
        made.append(Case("no HTTP", "HTTP/1.0", (old,), frozenset({200}), size=self._size))
        made.append(
            Case("no HTTP", "smuggled", (whole + b"GET /x HTTP/1.1\r\n",), frozenset({200}))
        )
        made.append(Case("no HTTP", "pipelined", (whole * 20,), frozenset({200}), size=self._size))
        for _ in range(15):
            spoilt = bytearray(whole)
            for _ in range(3):
                spoilt[self._chance.randrange(120)] = self._chance.randrange(256)
            made.append(Case("no HTTP", "spoilt head", (bytes(spoilt),), broken=True))
        return made

    def _left(self) -> list[Case]:
        """Clients that go away before the answer, or do not read it."""
        whole = request(self._good, self._path + "&maps=all")
        made = [Case("left", "at once", (b"",), broken=True, leaves="whole")]
        for wait in (0.0, 0.01, 0.1):
            made.append(Case("left", f"after {wait} s", (whole, wait), broken=True, leaves="whole"))
        many = whole * 30
        made.append(Case("left", "30 asked", (many, 0.3), broken=True, leaves="whole"))
        noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)
        large = request(encode(Image.fromarray(noise), "PNG"), self._path + "&maps=all")
        made.append(Case("left", "a large answer", (large, 1.0), broken=True, leaves="whole"))
        made.append(
            Case("left", "not read", (large * 3, 2.5 * SECONDS), broken=True, leaves="whole")
        )
        return made
