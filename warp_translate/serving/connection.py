"""uvicorn's HTTP/1.1 connection with strict parsing, a limit for every wait, and JSON errors."""

import asyncio
import json
import re
from typing import Any, NoReturn

import h11
from h11._receivebuffer import ReceiveBuffer
from uvicorn.protocols.http.h11_impl import H11Protocol

# A chunk of any size blocks the event loop for about 20 us.
_SPARE_CHUNKS, _CHUNK_BYTES = 1000, 256
_MOST_HEAD = 1 << 14
_LOOSE_LINES = re.compile(rb"^\n|[^\r]\n|\n[ \t]")
_LENGTHS = re.compile(rb"\ncontent-length:([^\n]*)", re.IGNORECASE)


class _Lines(ReceiveBuffer):
    """Keeps the raw bytes of a request's head, or of the trailer after its last chunk."""

    taken = b""

    def maybe_extract_lines(self) -> list[bytearray] | None:
        there = bytes(self)
        lines = super().maybe_extract_lines()
        if lines is not None:
            self.taken = there[: len(there) - len(self)]
        return lines


class _StrictConnection(h11.Connection):
    """Accepts only unambiguous HTTP/1.1, in chunks of a reasonable size.

    If a proxy and the server disagree on where a request ends, it can smuggle another one (RFC
    9112, 11.2). h11 accepts some ambiguous requests: with both a length and a transfer coding, with
    a repeated length, with folded lines or a bare LF.
    """

    def __init__(self, most_head: int) -> None:
        super().__init__(h11.SERVER, most_head)
        self._receive_buffer = self._lines = _Lines()
        self._chunked = False
        self._chunks = self._bytes = 0
        self.refusal: str | None = None

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._begin(event)
        elif isinstance(event, h11.Data):
            self._count(len(event.data))
        elif isinstance(event, h11.EndOfMessage) and self._chunked:
            self._check_lines(self._lines.taken)
        return event

    def _begin(self, request: h11.Request) -> None:
        self._chunks = self._bytes = 0
        names, head = [name for name, _ in request.headers], self._lines.taken
        self._chunked = b"transfer-encoding" in names
        self._check_lines(head)
        lengths = _LENGTHS.findall(head)
        if len(lengths) > 1 or b"," in b"".join(lengths):
            self._refuse("the request has more than one Content-Length; send one")
        if self._chunked and lengths:
            self._refuse("the request has Content-Length and Transfer-Encoding; send one of them")
        if self._chunked and request.http_version < b"1.1":
            self._refuse("HTTP/1.0 has no Transfer-Encoding; send Content-Length")

    def _check_lines(self, lines: bytes) -> None:
        if _LOOSE_LINES.search(lines):
            self._refuse("a line of the request is folded, or ends without CR; end each with CR LF")

    def _count(self, size: int) -> None:
        self._chunks += 1
        self._bytes += size
        if self._chunked and self._chunks > _SPARE_CHUNKS + self._bytes // _CHUNK_BYTES:
            self._refuse(
                f"the request's chunks are too small, {self._bytes} bytes in {self._chunks}; send "
                f"at least {_CHUNK_BYTES} bytes in each"
            )

    def _refuse(self, message: str) -> NoReturn:
        self.refusal = message
        raise h11.RemoteProtocolError(message)


class Connection(H11Protocol):
    """A connection that limits every wait for the client.

    uvicorn waits indefinitely for a request's head, for the rest of a body that was already
    answered, and for a client to receive its response. The application limits the wait for a body
    that is still to be answered.
    """

    def __init__(self, *arguments: Any, seconds: float, **options: Any) -> None:
        """Passes all but ``seconds`` to uvicorn.

        Args:
          *arguments: uvicorn's.
          seconds: limit for a request's head, and interval between checks that a response is being
            received.
          **options: uvicorn's.
        """
        super().__init__(*arguments, **options)
        head = self.config.h11_max_incomplete_event_size or _MOST_HEAD
        self.conn: _StrictConnection = _StrictConnection(head)
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self._left = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts waiting for the first request."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops waiting."""
        self._stop_timer()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Stops waiting once a request's head is complete."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._stop_timer()

    def on_response_complete(self) -> None:
        """Starts waiting for the next request, which may already be there."""
        self._start_timer()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Starts waiting for the client to receive the response."""
        super().pause_writing()
        self._start_timer()

    def resume_writing(self) -> None:
        """Stops waiting while the response is produced."""
        super().resume_writing()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()

    def send_400_response(self, msg: str) -> None:
        """Answers malformed or ambiguous HTTP."""
        self._refuse(400, self.conn.refusal or "the request is not valid HTTP")
        if self.cycle is not None:
            # Ends the application's wait for the rest of the body.
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _start_timer(self) -> None:
        self._stop_timer()
        self._left = self.transport.get_write_buffer_size()
        self._timer = self.loop.call_later(self._seconds, self._time_out)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_out(self) -> None:
        left = self.transport.get_write_buffer_size()
        if 0 < left < self._left:
            self._start_timer()  # The client is slow, but receiving.
        elif left or self.transport.is_closing():
            self.transport.abort()
        elif self.conn.trailing_data[0]:
            self._refuse(408, "the request was not received completely in time; send it again")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        # A response that has begun cannot be replaced.
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": message}).encode()
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("x-content-type-options", "nosniff"),
                ("connection", "close"),
            ]
            response = h11.Response(status_code=status, headers=headers)
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
