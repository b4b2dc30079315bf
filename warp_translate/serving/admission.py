"""Admits requests by the memory and the time that they take, before anything of them is unpacked.

The memory has three shares: for bodies, for quick requests and for all others. None of them can use
up another's, so that small pictures are answered whatever else is asked for. Requests that find no
room wait, the oldest first. Everything here happens on the event loop.
"""

import asyncio
import collections
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from warp_translate.serving.batcher import Busy
from warp_translate.serving.footprint import QUICK_SECONDS, Need
from warp_translate.serving.middleware import TooLarge

T = TypeVar("T")
U = TypeVar("U")

Part = tuple[Callable[[Any], Need], Callable[[Any], Any]]
"""Tells quickly what a part of a request's work takes, and does it."""

_TICKET = "admission"
# Which parts of the memory bodies and quick requests may take.
_BODIES, _QUICK = 8, 16
# A quick request takes no more than this part of its share.
_PART = 4
# How long a request waits to be read, and how many headers are looked at together.
_WAIT_SECONDS, _LOOKS = 1.0, 2
# A body up to this size is not counted, nor is its request among the large ones.
_SMALL_BYTES = 1 << 18
# A piece of a body may be small, and is an object nevertheless.
_PIECE_BYTES = 64
# Of an answer, so that the rest is not in the connection's buffer while nobody takes it.
_ANSWER_BYTES = 1 << 18


class _Share:
    """A part of the memory; who finds no room waits, the oldest first."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0
        self._waiting: collections.deque[tuple[int, asyncio.Future[None]]] = collections.deque()

    async def take(self, size: int, seconds: float) -> bool:
        """Takes memory, and tells whether it had to wait.

        Raises:
          TimeoutError: there was no room in time.
        """
        if not self._waiting and self.held + size <= self.most:
            self.held += size
            return False
        if not seconds:
            raise TimeoutError
        request = size, asyncio.get_running_loop().create_future()
        self._waiting.append(request)
        try:
            await asyncio.wait([request[1]], timeout=seconds)
        except BaseException:
            self._withdraw(request)
            raise
        if not request[1].done():
            self._withdraw(request)
            raise TimeoutError
        return True

    def give(self, size: int) -> None:
        """Gives memory back."""
        self.held -= size
        self._admit()

    def _withdraw(self, request: tuple[int, "asyncio.Future[None]"]) -> None:
        if request[1].done():
            self.give(request[0])
        else:
            self._waiting.remove(request)
            self._admit()

    def _admit(self) -> None:
        while self._waiting and self.held + self._waiting[0][0] <= self.most:
            size, future = self._waiting.popleft()
            self.held += size
            future.set_result(None)


class _Lane:
    """Requests that share memory, threads and the time of an engine."""

    def __init__(self, most: int, most_requests: int, clock: Callable[[], float]) -> None:
        self.share = _Share(most)
        self.threads = anyio.CapacityLimiter(most_requests)
        self.count = 0
        self._clock = clock
        self._expected = 0.0
        # How much longer it takes than expected, and since when this is timed.
        self._pace, self._since = 1.0, 0.0

    @property
    def seconds(self) -> int:
        """After which all that are in it should be answered; at least 1."""
        return max(1, math.ceil(self.expected))

    @property
    def expected(self) -> float:
        """The same, not rounded."""
        return self._expected * self._pace

    def begin(self, expected: float) -> None:
        if not self.count:
            self._since = self._clock()
        self.count += 1
        self._expected += expected

    def end(self, expected: float, worked: bool) -> None:
        self.count -= 1
        self._expected = max(0.0, self._expected - expected) if self.count else 0.0
        if worked:
            now = self._clock()
            found = (now - self._since) / max(expected, 1e-3)
            self._since = now
            self._pace += (min(max(found, 0.1), 10.0) - self._pace) / 4


class Ticket:
    """What one request holds."""

    def __init__(self) -> None:
        # Where it is counted: among all, or among the large ones.
        self.place: _Share | None = None
        # Of its body: what it says, what came, and what is held for it.
        self.declared = self.received = self.body = 0
        self.lane: _Lane | None = None
        self.need: Need | None = None
        # Of the memory of a lane: that of the work, and then that of the answer.
        self.share: _Share | None = None
        self.memory = 0


class Admission:
    """Who may come in, and what is held by those who did."""

    def __init__(
        self,
        *,
        memory: int,
        most_requests: int,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts with all of the memory free.

        Args:
          memory: bytes that all requests together may take.
          most_requests: small ones, and as many large ones.
          seconds: how long a request may wait.
          clock: seconds from any origin.
        """
        self._seconds = seconds
        self._places, self._large = _Share(most_requests), _Share(most_requests)
        bodies, quick = memory // _BODIES, memory // _QUICK
        self._bodies = _Share(bodies)
        self._quick = _Lane(quick, most_requests, clock)
        self._slow = _Lane(memory - bodies - quick, most_requests, clock)
        self._looks = anyio.CapacityLimiter(_LOOKS)

    def seconds(self) -> int:
        """After which all that is in work should be answered."""
        return max(self._quick.seconds, self._slow.seconds)

    async def arrive(self, ticket: Ticket) -> None:
        """Counts a request that is to be read.

        Raises:
          Busy: there are too many.
        """
        try:
            await self._places.take(1, _WAIT_SECONDS)
        except TimeoutError:
            raise Busy(
                f"{self._places.most} requests are being answered", self._quick.seconds
            ) from None
        ticket.place = self._places

    async def hold(self, ticket: Ticket, size: int) -> None:
        """Counts a piece of a body.

        Raises:
          Busy: there are too many large ones, or they fill their share of the memory.
        """
        ticket.received += size + _PIECE_BYTES
        if ticket.received <= _SMALL_BYTES:
            return
        await self._count_as_large(ticket)
        # All of it at once, so that bodies that came in part do not keep each other from the rest.
        # Twice, until the pieces are joined.
        more = 2 * max(ticket.declared, ticket.received) - ticket.body
        if more <= 0:
            return
        try:
            await self._bodies.take(more, _WAIT_SECONDS)
        except TimeoutError:
            raise Busy(
                f"the bodies of other requests take {gigabytes(self._bodies.held)} of memory",
                self.seconds(),
            ) from None
        ticket.body += more

    async def work(
        self,
        ticket: Ticket,
        got: T,
        weigh: Callable[[T], Need],
        do: Callable[[T], U],
        gone: Callable[[], Awaitable[bool]],
    ) -> U:
        """Does a part of a request's work in a thread when there is room for it.

        Args:
          ticket: the request's, of which all has been read. What the part before held is given
            back.
          got: what is worked on.
          weigh: tells quickly what that takes.
          do: does it.
          gone: tells whether nobody waits for the answer any more.

        Raises:
          TooLarge: it takes more memory than there is.
          Busy: there is no room, or there will not be in time.
          ClientDisconnect: nobody waits for it any more.
        """
        self._leave(ticket)
        need = await anyio.to_thread.run_sync(weigh, got, limiter=self._looks)
        lane, waited = await self._enter(ticket, need)
        if waited and await gone():
            raise ClientDisconnect
        done = await anyio.to_thread.run_sync(do, got, limiter=lane.threads)
        self._leave(ticket, worked=True, kept=need.memory)
        return done

    def keep(self, ticket: Ticket, size: int) -> None:
        """Keeps no more of a lane's memory than an answer takes until it is sent."""
        if ticket.share is not None and size < ticket.memory:
            ticket.share.give(ticket.memory - size)
            ticket.memory = size

    def leave(self, ticket: Ticket) -> None:
        """Gives everything back."""
        self._leave(ticket)
        self._bodies.give(ticket.body)
        ticket.body = 0
        self._count_in(ticket, None)

    async def _count_as_large(self, ticket: Ticket) -> None:
        if ticket.place is not self._large:
            try:
                await self._large.take(1, 0)
            except TimeoutError:
                raise Busy(
                    f"{self._large.most} large requests are being answered", self._slow.seconds
                ) from None
            self._count_in(ticket, self._large)

    def _count_in(self, ticket: Ticket, place: _Share | None) -> None:
        if ticket.place is not None:
            ticket.place.give(1)
        ticket.place = place

    async def _enter(self, ticket: Ticket, need: Need) -> tuple[_Lane, bool]:
        quick = need.seconds <= QUICK_SECONDS and need.memory * _PART <= self._quick.share.most
        lane = self._quick if quick else self._slow
        if need.memory > lane.share.most:
            raise TooLarge(
                f"{need.told} take about {gigabytes(need.memory)} of memory, and one request may "
                f"take {gigabytes(lane.share.most)}; {need.remedy}"
            )
        if lane is self._slow:
            await self._count_as_large(ticket)
        if lane.expected > self._seconds:
            raise Busy(f"the requests before it take about {lane.seconds} s", lane.seconds)
        # The pieces of its body are joined.
        self._bodies.give(ticket.body // 2)
        ticket.body -= ticket.body // 2
        ticket.lane, ticket.need = lane, need
        lane.begin(need.seconds)
        try:
            waited = await lane.share.take(need.memory, self._seconds)
        except TimeoutError:
            raise Busy(
                f"other requests take the memory for more than {self._seconds:.0f} s",
                lane.seconds,
            ) from None
        ticket.share, ticket.memory = lane.share, need.memory
        return lane, waited

    def _leave(self, ticket: Ticket, *, worked: bool = False, kept: int = 0) -> None:
        """Leaves the lane; memory that is not to be kept is given back."""
        if ticket.lane is not None and ticket.need is not None:
            ticket.lane.end(ticket.need.seconds, worked)
            ticket.lane = ticket.need = None
        self.keep(ticket, kept)


class Gate:
    """Counts what comes in, and lets nothing go before the answer has been sent."""

    def __init__(self, app: ASGIApp, *, admission: Admission) -> None:
        """Takes the parts.

        Args:
          app: answers; finds the ticket of a request by `ticket_of`.
          admission: counts.
        """
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        ticket = scope.setdefault("state", {})[_TICKET] = Ticket()
        length = dict(scope.get("headers", ())).get(b"content-length", b"")
        ticket.declared = int(length) if length.isdigit() and len(length) < 16 else 0

        async def counted() -> Message:
            message = await receive()
            if body := message.get("body"):
                await self._admission.hold(ticket, len(body))
            return message

        async def in_pieces(message: Message) -> None:
            # So that the connection makes the application wait while nobody takes the answer.
            body = message.get("body", b"")
            last = max(0, len(body) - 1) // _ANSWER_BYTES * _ANSWER_BYTES
            for start in range(0, last, _ANSWER_BYTES):
                piece = body[start : start + _ANSWER_BYTES]
                await send({"type": message["type"], "body": piece, "more_body": True})
            await send({**message, "body": body[last:]} if last else message)

        try:
            await self._app(scope, counted, in_pieces)
        finally:
            self._admission.leave(ticket)


def ticket_of(scope: Scope) -> Ticket:
    """The ticket that `Gate` gave a request."""
    found: Ticket = scope["state"][_TICKET]
    return found


def gigabytes(size: int) -> str:
    """Bytes in the words of an error."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
