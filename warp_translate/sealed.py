"""Safe reading of untrusted files: regular files of bounded size, and JSON with a checksum.

A sealed JSON object holds a SHA-256 of its other content, so that damage is detected without
another file.
"""

import errno
import hashlib
import io
import json
import math
import os
import reprlib
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KEY = "checksum"
"""The key of the checksum."""

_MOST_DIGITS = 20  # Of an integer; 64 bits need no more.


def open_regular(path: Path, most_bytes: int) -> io.BufferedReader:
    """Opens a regular file for reading; follows links.

    Args:
      path: the file.
      most_bytes: largest size.

    Raises:
      OSError: it cannot be opened, is no regular file, or is larger.
    """
    # Opening a pipe would block, and a device has no end.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    number = os.open(path, flags)
    try:
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if status.st_size > most_bytes:
            raise OSError(errno.EFBIG, f"it has more than {most_bytes} bytes", str(path))
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def loads(data: bytes) -> Any:
    """Parses untrusted JSON. The invalid ``NaN`` and ``Infinity`` become strings.

    Args:
      data: UTF-8.

    Raises:
      ValueError: it is no JSON, repeats a key, is nested too deeply, or holds too large a number.
        The message is one line.
    """
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=str,
            parse_int=_whole,
            parse_float=_finite,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the checksum to an object that JSON can hold."""
    return {**content, KEY: _digest(content)}


def dumps(content: Mapping[str, Any]) -> str:
    """The sealed object as JSON; its numbers must be finite."""
    return json.dumps(seal(content), indent=2, allow_nan=False) + "\n"


def is_intact(content: Mapping[str, Any]) -> bool:
    """True if an object is sealed and its checksum matches."""
    rest = {name: value for name, value in content.items() if name != KEY}
    try:
        return content.get(KEY) == _digest(rest)
    except RecursionError:
        return False


def unseal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Checks and removes the checksum, if there is one.

    Raises:
      ValueError: the checksum does not match.
    """
    if KEY in content and not is_intact(content):
        raise ValueError(
            f"its {KEY} does not match: the file is damaged, or was changed by hand; if you "
            f'changed it, remove "{KEY}" from it'
        )
    return {name: value for name, value in content.items() if name != KEY}


def short(value: Any) -> str:
    """Any value on one short line, for messages."""
    return reprlib.repr(value)


def _digest(content: Mapping[str, Any]) -> str:
    # A round trip turns keys into strings and tuples into lists.
    plain = json.loads(json.dumps(content))
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    # 64 bits detect damage; no number of bits would prevent deliberate changes.
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it holds {short(name)} twice")
        found[name] = value
    return found


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"it holds the number {text[:10]}..., which is too large")
    return int(text)


def _finite(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ValueError(f"it holds the number {text[:20]}, which is too large")
    return found
