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
                # Python would flush after this block, and report what goes wrong then.
                sys.stdout.flush()
    except BrokenPipeError:
        broken = [stream for stream in (sys.stdout, sys.stderr) if _is_broken(stream)]
        if not broken:  # Another pipe than those of the user.
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in broken:
            os.dup2(nowhere, stream.fileno())
        sys.exit(status.BROKEN_PIPE)


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
