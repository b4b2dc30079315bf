"""HTTP, forms and JSON that are broken, and clients that are."""

import json
import random
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from experiments.benchmarks.abuse.case import (
    EDGE,
    NOT_FOUND,
    REFUSED,
    SECONDS,
    Case,
    encode,
    form,
    request,
)


class Requests:
    """Makes the requests whose malice is around the picture."""

    def __init__(
        self, picture: Image.Image, target: str, path: str, model: str, chance: random.Random
    ) -> None:
        """Takes what requests that are right would hold.

        Args:
          picture: a small one.
          target: a domain to which one generator leads.
          path: where the picture is to be sent.
          model: name of a bundle.
          chance: all that is left to it.
        """
        self._good, self._size = encode(picture, "PNG"), (picture.height, picture.width)
        self._target, self._path, self._model, self._chance = target, path, model, chance

    def families(self) -> list[Callable[[], list[Case]]]:
        """What makes the cases of each family."""
        return [
            *(self._lengths, self._chunked, self._slow, self._multipart, self._names),
            *(self._queries, self._json, self._methods, self._floods, self._absurd, self._left),
        ]

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
        same = request(good, self._path, f"Content-Length: {len(good)}")
        made.append(Case("length", "said twice alike", (same,), REFUSED, broken=True))
        huge = request(b"", self._path, length=17_000_000)
        made.append(Case("length", "17 MB, none of them sent", (huge,), frozenset({413})))
        big = request(bytes(17_000_000), self._path)
        made.append(Case("length", "17 MB", (big,), frozenset({413})))
        return made

    def _chunked(self) -> list[Case]:
        host = "Host: localhost\r\nTransfer-Encoding: chunked\r\n"
        head = f"POST {self._path} HTTP/1.1\r\n{host}".encode()
        good = self._good

        def piece(data: bytes, size: int | None = None) -> bytes:
            return f"{len(data) if size is None else size:x}\r\n".encode() + data + b"\r\n"

        whole = head + b"\r\n" + piece(good) + b"0\r\n\r\n"
        made = [Case("chunked", "whole", (whole,), frozenset({200}), size=self._size)]
        tiny = b"".join(piece(good[at : at + 1]) for at in range(len(good)))
        parts = (head + b"\r\n" + tiny + b"0\r\n\r\n",)
        made.append(Case("chunked", "by single bytes", parts, frozenset({400}), broken=True))
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
        made.append(Case("chunked", "and a length", (both,), frozenset({400}), broken=True))
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
            "mixed": f"multipart/mixed; boundary={EDGE}",
            "urlencoded": "application/x-www-form-urlencoded",
        }
        for name, kind in kinds.items():
            add(name, request(body, self._path, f"Content-Type: {kind}"))
        for charset in (
            *("undefined", "idna", "punycode", "hex", "zlib", "rot13", "utf-16", "utf-7", "mbcs"),
            *("unicode_escape", "raw_unicode_escape", "a" * 300, "..", "/etc/passwd", "\x7f", '""'),
        ):
            kind = f"multipart/form-data; boundary={EDGE}; charset={charset}"
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
        kind = f"Content-Type: multipart/form-data; boundary={EDGE}"
        add("cut", request(body[:-40], self._path, kind))
        add("LF for CRLF", request(body.replace(b"\r\n", b"\n"), self._path, kind))
        add("edges only", request(f"--{EDGE}\r\n".encode() * 2000, self._path, kind))
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
            statuses = NOT_FOUND | {200} if path in ("/?", "/.", "//") else NOT_FOUND
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
                made.append(Case("queries", f"{name}={text[:12]}", (sent,), NOT_FOUND))
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
            made.append(Case("JSON", f"model {name[:12]}", (sent,), NOT_FOUND))
        for version in ("0", "-1", "9" * 99, "%00", "latest"):
            sent = request(changed(), f"/v2/models/{self._model}/versions/{version}/infer")
            made.append(Case("JSON", f"version {version[:9]}", (sent,), NOT_FOUND))
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
                    Case("methods", f"{method[:9]} {path}", (sent,), NOT_FOUND, method=method)
                )
        for method in ("GET", "HEAD", "OPTIONS"):
            sent = request(self._good, "/v1/translate", method=method)
            made.append(Case("methods", method, (sent,), frozenset({405}), method=method))
        for path in ("/health/live/", "/v1/generators/", "/metrics/", "/v1/translate/"):
            sent = request(b"", path, "X-Forwarded-Host: evil", method="GET")
            made.append(Case("methods", f"GET {path}", (sent,), NOT_FOUND | {307}, method="GET"))
        for upgrade in ("websocket", "h2c", "TLS/1.0"):
            lines = (f"Upgrade: {upgrade}", "Connection: Upgrade", "Sec-WebSocket-Key: AA==")
            sent = request(b"", self._path, *lines, "Sec-WebSocket-Version: 13", method="GET")
            made.append(Case("methods", f"upgrade to {upgrade}", (sent,), NOT_FOUND, method="GET"))
        for method, target in (("CONNECT", "a:443"), ("GET", "http://other/x"), ("OPTIONS", "*")):
            sent = request(b"", target, method=method)
            made.append(Case("methods", f"{method} {target}", (sent,), NOT_FOUND, broken=True))
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
        foreign = {
            "another name": request(good, path).replace(b"localhost", b"evil.example"),
            "a page elsewhere": request(good, path, "Origin: https://evil.example"),
            "a page elsewhere, no origin": request(good, path, "Sec-Fetch-Site: cross-site"),
        }
        for name, sent in foreign.items():
            made.append(Case("headers", name, (sent,), frozenset({403})))
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
