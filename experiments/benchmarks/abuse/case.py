"""What is sent over a socket, byte by byte, and what may come back."""

import dataclasses
import io
from collections.abc import Iterable
from typing import Any

from PIL import Image

SECONDS, MEGABYTES, MEGAPIXELS = 4.0, 16.0, 2.0
"""The limits of the server that the requests are made for."""

REFUSED = frozenset({400, 413})
NOT_FOUND = frozenset({400, 404, 405})
EDGE = "edge0f0a0form"


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
        parts += [f"--{EDGE}\r\nContent-Disposition: form-data; ".encode() + text]
        parts += [b"\r\n\r\n" + content + b"\r\n"]
    body = b"".join(parts) + f"--{EDGE}--\r\n".encode()
    kind = kind or f"multipart/form-data; boundary={EDGE}"
    return request(body, path or "/v1/translate", f"Content-Type: {kind}")
