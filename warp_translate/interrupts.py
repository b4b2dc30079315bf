"""Ctrl-C, heard also where Python cannot answer it: while a library compiles for minutes.

Python calls a handler of a signal between two of its own instructions, so never while the main
thread is in the compiler. A thread beside it ends the process then, some seconds after Ctrl-C.
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

_limits: dict[Any, int] = {}  # By handler, as the system has it.


class _Watch:
    """What `watch` has begun.

    Python writes the number of every signal into the pipe before it calls a handler, which empties
    it: what is still there after some seconds was not answered.
    """

    def __init__(self, leave: Callable[[], None]) -> None:
        self.leave = leave
        self._unanswered = 0
        self._hear, tell = os.pipe()
        os.set_blocking(self._hear, False)
        os.set_blocking(tell, False)
        signal.set_wakeup_fd(tell, warn_on_full_buffer=False)

    def answered(self) -> None:
        self._read()
        self._unanswered = 0

    def listen(self) -> None:
        while select.select([self._hear], [], []):
            time.sleep(_SECONDS)
            self._unanswered += self._read().count(signal.SIGINT)
            if 0 < _limits.get(signal.getsignal(signal.SIGINT), 0) <= self._unanswered:
                self.leave()

    def _read(self) -> bytes:
        with contextlib.suppress(BlockingIOError):
            return os.read(self._hear, 1 << 16)
        return b""


_watch: _Watch | None = None


def watch(leave: Callable[[], None]) -> None:
    """Sees to it, as long as the process lives, that it ends where Ctrl-C asks it to.

    Args:
      leave: ends the process; called in another thread than the main one.
    """
    global _watch
    _watch = _Watch(leave)
    # A forked process has no such thread, and what it hears is not meant for this one.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    threading.Thread(target=_watch.listen, daemon=True).start()


@contextlib.contextmanager
def handled_by(number: signal.Signals, handler: Handler, *, limit: int = 0) -> Iterator[None]:
    """Handles a signal; what handled it before does so again afterwards.

    Outside the main thread, in which alone Python hears of signals, it does nothing.

    Args:
      number: the signal.
      handler: is called with it.
      limit: of Ctrl-C: how many of them ask the process to end without saving anything, which
        `watch` then sees to; 0 where no number does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    calls = 0

    def answer(number: int, frame: FrameType | None) -> None:
        nonlocal calls
        calls += 1
        if _watch is not None:
            _watch.answered()
            if calls == limit:
                timer = threading.Timer(_SECONDS, _watch.leave)
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
