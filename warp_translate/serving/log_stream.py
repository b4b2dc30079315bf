"""A text stream for logs that never makes whoever writes to it wait."""

import collections
import io
import json
import os
import threading
import time

_MOST_CHARACTERS = 1 << 14


class LogStream(io.TextIOBase):
    """Writes lines to a file descriptor from a thread of its own, through a bounded queue.

    A pipe that nobody reads blocks whoever writes to it. Here it blocks the thread alone: the queue
    fills up, and further lines are dropped and counted. The next line that fits is preceded by
    ``{"time": ..., "dropped_lines": ...}``. The thread writes to the descriptor itself, since the
    lock of a Python stream that blocks would keep the process from ending.
    """

    def __init__(self, descriptor: int | None, *, most_waiting: int = 1024) -> None:
        """Starts the thread.

        Args:
          descriptor: to write to; None to drop everything.
          most_waiting: lines in the queue.
        """
        super().__init__()
        self._descriptor, self._most = descriptor, most_waiting
        self._waiting: collections.deque[str] = collections.deque()
        self._dropped = self._untold = 0
        self._ended = False
        self._changed = threading.Condition()
        self._begun = threading.local()
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were not written, since the start."""
        return self._dropped

    def writable(self) -> bool:
        """Whether it can be written to."""
        return True

    def write(self, text: str) -> int:
        """Takes text; what ends a line goes into the queue together with what began it.

        Args:
          text: of any length.

        Returns:
          Its length.
        """
        whole = getattr(self._begun, "text", "") + text
        self._begun.text = ""
        if not whole.endswith("\n"):
            # ``print`` writes the end of a line by itself.
            self._begun.text = whole[:_MOST_CHARACTERS]
        else:
            self._put(whole if len(whole) <= _MOST_CHARACTERS else f"{whole[:_MOST_CHARACTERS]}\n")
        return len(text)

    def end(self, seconds: float = 1.0) -> None:
        """Writes what waits, and ends the thread; lines that come later are dropped.

        Args:
          seconds: for which it waits at most.
        """
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(seconds)

    def _put(self, text: str) -> None:
        with self._changed:
            # The lines that tell of dropped ones are few, and need no room.
            if self._ended or len(self._waiting) >= self._most:
                self._dropped += text.count("\n")
                self._untold += text.count("\n")
                return
            if self._untold:
                told = {"time": round(time.time(), 3), "dropped_lines": self._untold}
                self._waiting.append(json.dumps(told) + "\n")
                self._untold = 0
            self._waiting.append(text)
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._ended:
                        return
                    self._changed.wait()
                text = self._waiting.popleft()
            data = text.encode(errors="backslashreplace")
            try:
                while data:
                    if self._descriptor is None:
                        raise OSError("there is nothing to write to")
                    data = data[os.write(self._descriptor, data) :]
            except OSError:  # Whoever read it has gone, or the disk is full.
                with self._changed:
                    self._dropped += text.count("\n")
                    self._untold += text.count("\n")
