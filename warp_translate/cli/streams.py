"""Standard output and error of the commands, whatever they are connected to."""

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import TextIO

from warp_translate.cli import status


@contextlib.contextmanager
def ready() -> Iterator[None]:
    """Escapes characters that a stream cannot encode; exits quietly when it is closed.

    ``warp-translate ... | head`` closes the pipe while the command prints. The command then exits
    with the status that shells give to a process ended by SIGPIPE.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                # Python would flush at exit and print a traceback if that fails.
                sys.stdout.flush()
    except BrokenPipeError:
        broken = [stream for stream in (sys.stdout, sys.stderr) if _is_broken(stream)]
        if not broken:  # A pipe of the command's own.
            raise
        for stream in broken:
            _discard(stream)
        sys.exit(status.BROKEN_PIPE)
    except OSError as error:
        if not _is_full(sys.stdout):
            raise
        _discard(sys.stdout)
        if not isinstance(error.__context__, SystemExit):  # Else an error is printed already.
            print(f"error: cannot write to standard output ({error.strerror})", file=sys.stderr)
        sys.exit(status.USER_ERROR)


def _is_full(stream: TextIO | None) -> bool:
    """Returns whether the buffer of a stream cannot be written."""
    try:
        if stream is not None:
            stream.flush()
    except OSError:
        return True
    return False


def _discard(stream: TextIO) -> None:
    """Redirects a stream and its buffer to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def _is_broken(stream: TextIO | None) -> bool:
    """Returns whether a stream is a pipe without a reader."""
    if stream is None or not hasattr(select, "poll"):
        return False
    try:
        number = stream.fileno()
    except (OSError, ValueError):
        return False
    poll = select.poll()
    poll.register(number, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
