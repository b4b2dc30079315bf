"""How far work on many images is, told while it runs."""

import datetime
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import numpy as np

Batch = TypeVar("Batch", bound=Mapping[str, np.ndarray])

_QUIET = 5.0  # Seconds in which it may be done without a word.
_INTERVAL = 10.0


class Headway:
    """Says how many images were measured, how fast, and how long the rest will take.

        measured 1280 of 5000 images, 41 images/s, 0:01:30 left

    Nothing is said of what is done within some seconds. The first batch does not count for the
    rate, which is compiled for.
    """

    def __init__(
        self,
        total: int,
        say: Callable[[str], None],
        *,
        processes: int = 1,
        verb: str = "measured",
        noun: str = "images",
        compiles: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts the clock.

        Args:
          total: images that all processes will go through.
          say: is given every line.
          processes: how many go through as many.
          verb: what is done to them.
          noun: what they are called.
          compiles: whether the first batch is compiled for, which is said at once.
          clock: seconds from any origin.
        """
        self._total, self._say, self._processes, self._clock = total, say, processes, clock
        self._verb, self._noun, self._compiles = verb, noun, compiles
        self._done = 0
        self._next_line = clock() + _QUIET
        self._first: tuple[float, int] | None = None

    def through(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yields batches and counts each when the next one is asked for."""
        if self._compiles:
            self._say(f"compiling; {self._total} {self._noun} are to be {self._verb}")
            self._compiles = False
        for batch in batches:
            yield batch
            self.advance(len(next(iter(batch.values()))))

    def advance(self, images: int) -> None:
        """Counts images of this process that are done."""
        now = self._clock()
        self._done += images * self._processes
        if self._first is None:
            self._first = (now, self._done)
        start, done_before = self._first
        if now < self._next_line or self._done == done_before or now == start:
            return
        self._next_line = now + _INTERVAL
        rate = (self._done - done_before) / (now - start)
        done = min(self._done, self._total)
        left = datetime.timedelta(seconds=round((self._total - done) / rate))
        self._say(
            f"{self._verb} {done} of {self._total} {self._noun}, {rate:.3g} {self._noun}/s, "
            f"{left} left"
        )
