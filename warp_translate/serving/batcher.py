"""Translates requests of many clients together: a lane for each padded size, the oldest first.

Quick requests have a queue and a thread of their own, so that they do not wait for slow ones.

Images of different sizes that are padded to the same one go together, since a generator pads them
just so: by repeating the border, up to a multiple that the factor and the trunk divide. Every image
gets the very translation that it would get alone.
"""

import collections
import dataclasses
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np

from warp_translate.constants import padded_side
from warp_translate.serving.engine import Engine, Translated
from warp_translate.serving.footprint import TOGETHER_PIXELS


class Busy(Exception):
    """There is no room, or nothing is taken any more; to be asked again later.

    Attributes:
      seconds: after which to ask again.
    """

    def __init__(self, message: str, seconds: int = 1) -> None:
        super().__init__(message)
        self.seconds = seconds


class TooLate(Exception):
    """The request has waited longer than it may."""


@dataclasses.dataclass(frozen=True)
class _Lane:
    engine: Engine
    factor: int
    height: int
    width: int
    with_maps: bool


@dataclasses.dataclass(frozen=True)
class _Request:
    image: np.ndarray
    future: "Future[Translated]"
    arrived: float
    deadline: float


class Batcher:
    """Bounded queues before the engines, one for slow and one for quick requests."""

    def __init__(
        self,
        *,
        most_waiting: int = 64,
        batch: int = 8,
        batch_pixels: int = TOGETHER_PIXELS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts the threads.

        Args:
          most_waiting: requests in each of the queues.
          batch: most images at once.
          batch_pixels: most padded pixels at once; a larger image goes alone.
          clock: seconds from any origin.
        """
        self._most_waiting = most_waiting
        self._queues = {
            quick: _Queue(most_waiting, batch, batch_pixels, clock) for quick in (False, True)
        }

    @property
    def most_waiting(self) -> int:
        """Most requests in a queue."""
        return self._most_waiting

    @property
    def waiting(self) -> int:
        """Requests in the queues."""
        return sum(queue.waiting for queue in self._queues.values())

    @property
    def alive(self) -> bool:
        """Whether requests are taken and answered."""
        return all(queue.alive for queue in self._queues.values())

    def submit(
        self,
        engine: Engine,
        image: np.ndarray,
        factor: int,
        *,
        with_maps: bool = False,
        seconds: float = 60.0,
        quick: bool = False,
    ) -> "Future[Translated]":
        """Puts an image into a queue.

        Args:
          engine: what translates.
          image: uint8 ``[H, W, 3]``.
          factor: one of the bundle's.
          with_maps: whether the maps are wanted too.
          seconds: how long it may wait in the queue.
          quick: whether it goes into the queue of quick requests.

        Returns:
          A future of arrays without the batch's axis: ``[H, W, C]``. It raises `TooLate`, or what
          the engine raises. Cancelling it takes the request out of the queue.

        Raises:
          Busy: the queue is full or closed.
        """
        height, width = image.shape[:2]
        sides = padded_side(height, factor), padded_side(width, factor)
        lane = _Lane(engine, factor, *sides, with_maps)
        return self._queues[quick].submit(lane, image, seconds)

    def close(self) -> None:
        """Takes nothing more, finishes what was taken, and ends the threads."""
        for queue in self._queues.values():
            queue.close()
        for queue in self._queues.values():
            queue.join()


class _Queue:
    """A bounded queue, and the thread that empties it."""

    def __init__(
        self, most_waiting: int, batch: int, batch_pixels: int, clock: Callable[[], float]
    ) -> None:
        self._most_waiting = most_waiting
        self._batch, self._batch_pixels = batch, batch_pixels
        self._clock = clock
        self._lanes: dict[_Lane, collections.deque[_Request]] = {}
        self.waiting = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return not self._closed and self._thread.is_alive()

    def submit(self, lane: _Lane, image: np.ndarray, seconds: float) -> "Future[Translated]":
        now = self._clock()
        request = _Request(image, Future(), now, now + seconds)
        with self._changed:
            if self._closed or not self._thread.is_alive():
                raise Busy("the server is stopping")
            if self.waiting >= self._most_waiting:
                raise Busy(f"{self.waiting} requests are waiting")
            self._lanes.setdefault(lane, collections.deque()).append(request)
            self.waiting += 1
            self._changed.notify()
        return request.future

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    def join(self) -> None:
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self.waiting:
                    if self._closed:
                        return
                    self._changed.wait()
                lane, requests = self._take()
            _answer(lane, requests, self._clock())
            del lane, requests  # What they hold, while there is nothing to do.

    def _take(self) -> tuple[_Lane, list[_Request]]:
        """The lane whose first request is the oldest, and as many of it as go together."""
        lane = min(self._lanes, key=lambda lane: self._lanes[lane][0].arrived)
        queue = self._lanes[lane]
        most = min(self._batch, max(1, self._batch_pixels // (lane.height * lane.width)))
        requests = [queue.popleft() for _ in range(min(most, len(queue)))]
        if not queue:
            del self._lanes[lane]
        self.waiting -= len(requests)
        return lane, requests


def _answer(lane: _Lane, requests: list[_Request], now: float) -> None:
    running = []
    for request in requests:
        # False if it was cancelled: whoever asked has gone.
        if request.future.set_running_or_notify_cancel():
            if now > request.deadline:
                request.future.set_exception(TooLate(f"waited {now - request.arrived:.0f} s"))
            else:
                running.append(request)
    if not running:
        return
    try:
        images = np.stack([_pad(request.image, lane) for request in running])
        found = lane.engine.translate(images, lane.factor, with_maps=lane.with_maps)
        answers = [_crop(found, place, lane, request) for place, request in enumerate(running)]
    except BaseException as error:  # Whatever it was, those who wait must hear of it.
        for request in running:
            request.future.set_exception(error)
        return
    for request, answer in zip(running, answers, strict=True):
        request.future.set_result(answer)


def _pad(image: np.ndarray, lane: _Lane) -> np.ndarray:
    below, right = lane.height - image.shape[0], lane.width - image.shape[1]
    return np.pad(image, ((0, below), (0, right), (0, 0)), mode="edge")


def _crop(found: Translated, place: int, lane: _Lane, request: _Request) -> Translated:
    height, width = request.image.shape[:2]
    reduced = -(-height // lane.factor), -(-width // lane.factor)
    maps = found.maps and {
        name: each[place][: reduced[0], : reduced[1]]
        if name == "reduced"
        else each[place][:height, :width]
        for name, each in found.maps.items()
    }
    return Translated(found.output[place][:height, :width], maps)
