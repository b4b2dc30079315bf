"""Which process works on something: a file that is locked as long as that process lives."""

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

from warp_translate import locks


@contextlib.contextmanager
def held(folder: Path, prefix: str = "") -> Iterator[Path]:
    """Makes a file ``PREFIX*.owner`` of a new name, by which others see that this process lives.

    Args:
      folder: where it goes.
      prefix: what its name begins with.

    Yields:
      The file, which is removed in the end.

    Raises:
      OSError: the folder cannot be written.
    """
    while True:
        path = folder / f"{prefix}{secrets.token_hex(8)}.owner"
        try:
            with open(path, "x") as file:
                try:
                    locks.try_lock(file.fileno())
                except BlockingIOError:  # Somebody looks whether it is locked already.
                    continue
                except OSError:  # A file system without locks, on which nobody is taken for dead.
                    pass
                if path.exists():
                    yield path
                    return
        finally:
            path.unlink(missing_ok=True)


def is_alive(path: Path) -> bool:
    """Whether the process of a file of `held` lives, for all that is known."""
    try:
        with open(path, "r+") as file:
            locks.try_lock(file.fileno())
    except FileNotFoundError:
        return False
    except OSError:  # Locked, or it cannot be known.
        return True
    return False
