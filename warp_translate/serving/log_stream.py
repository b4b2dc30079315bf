"""A text stream for logs whose writers never block."""

import collections
import io
import json
import os
import threading
import time

_MOST_CHARACTERS = 1 << 14


class LogStream(io.TextIOBase):
    """Writes lines to a file descriptor from a thread, through a bounded queue.

    If nobody reads the pipe, only the thread blocks: once the queue is full, further lines are
    dropped and counted. The next queued line is preceded by ``{"time": ..., "dropped_lines":
    ...}``. The thread bypasses Python's streams, since the lock of a blocked one would keep the
    process from ending.

    Attributes:
      dropped: lines that were not written.
    """

    def __init__(self, descriptor: int | None, *, most_waiting: int = 1024) -> None:
        """Starts the thread.

        Args:
          descriptor: to write to; None to drop everything.
          most_waiting: capacity of the queue in lines.
        """
        super().__init__()
        self.dropped = 0
        self._descriptor, self._most = descriptor, most_waiting
        self._waiting: collections.deque[str] = collections.deque()
        self._unreported = 0
        self._ended = False
        self._changed = threading.Condition()
        self._begun = threading.local()
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)
        self._thread.start()

    def writable(self) -> bool:
        """Returns True."""
        return True

    def write(self, text: str) -> int:
        """Queues text once its line is complete; every thread has a line of its own."""
        line = getattr(self._begun, "text", "") + text
        self._begun.text = ""
        if not line.endswith("\n"):  # print writes the newline separately.
            self._begun.text = line[:_MOST_CHARACTERS]
        else:
            self._put(line if len(line) <= _MOST_CHARACTERS else f"{line[:_MOST_CHARACTERS]}\n")
        return len(text)

    def end(self, seconds: float = 1.0) -> None:
        """Drops later lines, and waits up to ``seconds`` until the queued ones are written."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(seconds)

    def _put(self, text: str) -> None:
        with self._changed:
            if self._ended or len(self._waiting) >= self._most:
                self._drop(text)
                return
            if self._unreported:  # Such lines are few and need no room.
                report = {"time": round(time.time(), 3), "dropped_lines": self._unreported}
                self._waiting.append(json.dumps(report) + "\n")
                self._unreported = 0
            self._waiting.append(text)
            self._changed.notify()

    def _drop(self, text: str) -> None:
        self.dropped += text.count("\n")
        self._unreported += text.count("\n")

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    return
                text = self._waiting.popleft()
            data = text.encode(errors="backslashreplace")
            try:
                while data:
                    if self._descriptor is None:
                        raise OSError("there is no descriptor")
                    data = data[os.write(self._descriptor, data) :]
            except OSError:  # The reader is gone, or the disk is full.
                with self._changed:
                    self._drop(text)
