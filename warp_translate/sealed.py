"""Reads what may be damaged or hostile: regular files of a bounded size, and JSON with a checksum.

A sealed JSON object holds the SHA-256 of all its other content, so that a file that describes
others, and is covered by none of them, shows by itself that it is as it was written.
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
"""Where an object holds its own checksum."""

_MOST_DIGITS = 20  # Of a whole number; those of 64 bits have no more.


def open_regular(path: Path, most_bytes: int) -> io.BufferedReader:
    """Opens a file to read it. Links are followed.

    Args:
      path: the file.
      most_bytes: what it may have.

    Raises:
      OSError: it cannot be opened, is no regular file, or is larger.
    """
    # A pipe would wait here for a writer, and a device has no end.
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
    """Parses JSON that may be anything.

    ``NaN`` and ``Infinity``, which are no JSON, become text: no number of a caller is one.

    Args:
      data: UTF-8.

    Raises:
      ValueError: it is no JSON, names a key twice, is nested too deeply, or holds a number that is
        too large. The message is one line.
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
    """An object with the checksum of everything else in it.

    Args:
      content: what JSON can hold.
    """
    return {**content, KEY: _digest(content)}


def dumps(content: Mapping[str, Any]) -> str:
    """Writes an object of finite numbers as JSON, sealed."""
    return json.dumps(seal(content), indent=2, allow_nan=False) + "\n"


def is_intact(content: Mapping[str, Any]) -> bool:
    """Whether an object is sealed, and as it was written."""
    rest = {name: value for name, value in content.items() if name != KEY}
    try:
        return content.get(KEY) == _digest(rest)
    except RecursionError:
        return False


def unseal(content: Mapping[str, Any]) -> dict[str, Any]:
    """An object without its checksum; one that never had one as it is.

    Raises:
      ValueError: it is not what was sealed.
    """
    if KEY in content and not is_intact(content):
        raise ValueError(
            f"its {KEY} does not fit: the file is damaged, or was changed by hand; if you changed "
            f'it, remove "{KEY}" from it'
        )
    return {name: value for name, value in content.items() if name != KEY}


def short(value: Any) -> str:
    """A value for a message, in one line whatever it is."""
    return reprlib.repr(value)


def _digest(content: Mapping[str, Any]) -> str:
    # Through JSON once, which makes strings of keys and lists of tuples.
    plain = json.loads(json.dumps(content))
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    # 64 bits are enough against damage; no number of them would keep anybody from editing a file.
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
