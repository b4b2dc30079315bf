"""Locks on open files that end with the process that holds them, whatever ends it."""

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

_FAR = 1 << 30  # Where Windows locks a byte: what is locked there cannot be read by others.
_UNKNOWN = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)
_SECONDS_TO_DIE = 5.0
_SECONDS_BETWEEN_TRIES = 0.1


def try_lock(file: int) -> None:
    """Locks an open file for this process and those that inherit it, without waiting.

    Args:
      file: its descriptor; closing it ends the lock.

    Raises:
      BlockingIOError: another process has locked it.
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
    """Holds a lock as long as the block lasts, or this process.

    Args:
      path: the file, which is made and stays there; its folder is made, too.
      what: is done by who holds the lock, for the message.
      patience: seconds in which a process that was killed may end.

    Yields:
      A line for the user where the file system has no locks; else None.

    Raises:
      UserError: another process holds it.
      OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    release = [file]

    def close() -> None:
        # A forked child must not keep the lock when this process is gone.
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
                f"{path.parent} is on a file system without locks ({error.strerror}): see to it "
                f"that nobody else {what} there"
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
                    f"another command {what} in {path.parent} ({holder or 'it does not say who'}): "
                    "wait until it ends, stop it, or choose another folder"
                ) from error
        time.sleep(_SECONDS_BETWEEN_TRIES)
