"""File locks that end with the process that holds them."""

import contextlib
import errno
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from warp_translate.errors import UserError

try:
    import fcntl
except ImportError:  # Windows.
    fcntl = None  # type: ignore[assignment]

_FAR = 1 << 30  # The byte to lock on Windows, where others cannot read locked bytes.
_UNKNOWN = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)
_SECONDS_TO_DIE = 5.0
_SECONDS_BETWEEN_TRIES = 0.1


def try_lock(file: int) -> None:
    """Locks an open file for this process and its children, without waiting.

    Args:
      file: its descriptor; closing it releases the lock.

    Raises:
      BlockingIOError: another process holds the lock.
      OSError: the file system has no locks.
    """
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    import msvcrt

    place = os.lseek(file, 0, os.SEEK_CUR)
    os.lseek(file, _FAR, os.SEEK_SET)
    try:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    except PermissionError as error:
        raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK)) from error
    finally:
        os.lseek(file, place, os.SEEK_SET)


@contextlib.contextmanager
def held(path: Path, what: str, patience: float = _SECONDS_TO_DIE) -> Iterator[str | None]:
    """Holds a lock for the duration of the block, or of this process.

    Args:
      path: the lock file, which is created, with its folder, and stays.
      what: activity of the holder for the message, such as "trains".
      patience: seconds to wait for a killed process to end.

    Yields:
      A warning if the file system has no locks, else None.

    Raises:
      UserError: another process holds the lock.
      OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    release = [file]

    def close() -> None:
        # A forked child must not keep the lock after this process.
        while release:
            os.close(release.pop())

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=close)
    try:
        notice = None
        try:
            _wait(file, path, what, patience)
        except OSError as error:
            if error.errno not in _UNKNOWN:
                raise
            notice = (
                f"{path.parent} is on a file system without locks ({error.strerror}): make sure "
                f"that nothing else {what} there"
            )
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield notice
    finally:
        close()


def _wait(file: int, path: Path, what: str, patience: float) -> None:
    begin = time.monotonic()
    while True:
        try:
            return try_lock(file)
        except BlockingIOError as error:
            if time.monotonic() - begin > patience:
                holder = " ".join(path.read_text(encoding="utf-8", errors="replace").split())
                raise UserError(
                    f"another command {what} in {path.parent} ({holder or 'unknown process'}): "
                    "wait until it ends, stop it, or choose another folder"
                ) from error
        time.sleep(_SECONDS_BETWEEN_TRIES)
