"""Standard output and error of the commands, whatever is connected to them."""

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
    """Prints whatever characters a name has, and ends silently when nobody reads on.

    ``warp-translate ... | head`` closes the pipe while the command prints. It then leaves with the
    status that shells give to a command that SIGPIPE has ended.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                # Python would do so after this block, and report what goes wrong in its own words.
                sys.stdout.flush()
    except BrokenPipeError:
        broken = [stream for stream in (sys.stdout, sys.stderr) if _is_broken(stream)]
        if not broken:  # Another pipe than those of the user.
            raise
        for stream in broken:
            _drop(stream)
        sys.exit(status.BROKEN_PIPE)
    except OSError as error:
        if not _is_full(sys.stdout):
            raise
        _drop(sys.stdout)
        if not isinstance(error.__context__, SystemExit):  # Else there is a line already.
            print(f"error: standard output cannot be written ({error.strerror})", file=sys.stderr)
        sys.exit(status.USER_ERROR)


def _is_full(stream: TextIO | None) -> bool:
    """Whether what is left for a stream cannot be written."""
    try:
        if stream is not None:
            stream.flush()
    except OSError:
        return True
    return False


def _drop(stream: TextIO) -> None:
    """Lets what is left for a stream go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _is_broken(stream: TextIO | None) -> bool:
    """Whether a stream is a pipe whose reader is gone."""
    if stream is None or not hasattr(select, "poll"):
        return False
    try:
        number = stream.fileno()
    except (OSError, ValueError):
        return False
    poll = select.poll()
    poll.register(number, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
