"""Marks of living processes: files that stay locked as long as their process lives."""

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

from warp_translate import locks


@contextlib.contextmanager
def held(folder: Path, prefix: str = "") -> Iterator[Path]:
    """Creates a locked file ``PREFIX*.owner`` with a random name.

    Args:
      folder: where to create it.
      prefix: of its name.

    Yields:
      The file, which is removed after the block.

    Raises:
      OSError: the folder cannot be written.
    """
    while True:
        path = folder / f"{prefix}{secrets.token_hex(8)}.owner"
        try:
            with open(path, "x") as file:
                try:
                    locks.try_lock(file.fileno())
                except BlockingIOError:  # Another process is testing the lock in `is_alive`.
                    continue
                except OSError:  # Without locks, every process counts as alive.
                    pass
                if path.exists():
                    yield path
                    return
        finally:
            path.unlink(missing_ok=True)


def is_alive(path: Path) -> bool:
    """True unless the process of a file of `held` is known to have ended."""
    try:
        with open(path, "r+") as file:
            locks.try_lock(file.fileno())
    except FileNotFoundError:
        return False
    except OSError:  # Locked, or there are no locks.
        return True
    return False
