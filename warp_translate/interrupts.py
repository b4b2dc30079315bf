"""Ctrl-C that works even while a library compiles for minutes.

Python runs signal handlers between bytecode instructions of the main thread, so never during a
long native call. A watchdog thread ends the process in that case, some seconds after Ctrl-C.
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]

_SECONDS = 6.0

_limits: dict[Any, int] = {}  # By installed handler.


class _Watchdog:
    """Counts the Ctrl-C that no handler has answered.

    Python writes the number of every signal to the pipe before it calls the handler, which empties
    the pipe: whatever is left after some seconds was not answered.
    """

    def __init__(self, leave: Callable[[], None]) -> None:
        self.leave = leave
        self._unanswered = 0
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def answered(self) -> None:
        self._read()
        self._unanswered = 0

    def listen(self) -> None:
        while select.select([self._reader], [], []):
            time.sleep(_SECONDS)
            self._unanswered += self._read().count(signal.SIGINT)
            if 0 < _limits.get(signal.getsignal(signal.SIGINT), 0) <= self._unanswered:
                self.leave()

    def _read(self) -> bytes:
        with contextlib.suppress(BlockingIOError):
            return os.read(self._reader, 1 << 16)
        return b""


_watchdog: _Watchdog | None = None


def watch(leave: Callable[[], None]) -> None:
    """Starts the watchdog for the lifetime of the process.

    Args:
      leave: ends the process; called in the watchdog's thread.
    """
    global _watchdog
    _watchdog = _Watchdog(leave)
    # A forked process has no such thread and must not write to this one's pipe.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    threading.Thread(target=_watchdog.listen, daemon=True).start()


@contextlib.contextmanager
def handled_by(number: signal.Signals, handler: Handler, *, limit: int = 0) -> Iterator[None]:
    """Handles a signal within the block, then restores the previous handler.

    Does nothing outside the main thread, where Python allows no handlers.

    Args:
      number: the signal.
      handler: called with the signal.
      limit: for Ctrl-C, how many of them end the process without saving, which the watchdog
        enforces; 0 for no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    calls = 0

    def answer(number: int, frame: FrameType | None) -> None:
        nonlocal calls
        calls += 1
        if _watchdog is not None:
            _watchdog.answered()
            if calls == limit:
                timer = threading.Timer(_SECONDS, _watchdog.leave)
                timer.daemon = True
                timer.start()
        handler(number, frame)

    before = signal.signal(number, answer)
    _limits[answer] = limit
    try:
        yield
    finally:
        signal.signal(number, before)
        del _limits[answer]
