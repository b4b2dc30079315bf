"""A connection of uvicorn's that waits for nobody for ever and says what is wrong in JSON."""

import asyncio
import json
import re
from typing import Any, NoReturn

import h11
from h11._receivebuffer import ReceiveBuffer
from uvicorn.protocols.http.h11_impl import H11Protocol

# A chunk costs about 20 us, however small it is, in which nothing else is done.
_SPARE_CHUNKS, _CHUNK_BYTES = 1000, 256
_MOST_HEAD = 1 << 14
_LOOSE_LINES = re.compile(rb"^\n|[^\r]\n|\n[ \t]")
_LENGTHS = re.compile(rb"\ncontent-length:([^\n]*)", re.IGNORECASE)


class _Lines(ReceiveBuffer):
    """Remembers a request's head, or what follows its last chunk, as it came."""

    taken = b""

    def maybe_extract_lines(self) -> list[bytearray] | None:
        there = bytes(self)
        lines = super().maybe_extract_lines()
        if lines is not None:
            self.taken = there[: len(there) - len(self)]
        return lines


class _Strict(h11.Connection):
    """HTTP/1.1 that proxies and servers read alike, in chunks of a reasonable size.

    Where a proxy finds the end of a request at another place than the server behind it, a request
    can hide another one (RFC 9112, 11.2). h11 takes some that are read in several ways: those with
    a length and a transfer coding, with the same length twice, with folded lines or a bare LF.
    """

    def __init__(self, most_head: int) -> None:
        super().__init__(h11.SERVER, most_head)
        self._receive_buffer = self._lines = _Lines()
        self._chunked = False
        self._chunks = self._bytes = 0
        self.refusal: str | None = None  # What is wrong, for the sender.

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._begin(event)
        elif isinstance(event, h11.Data):
            self._count(len(event.data))
        elif isinstance(event, h11.EndOfMessage) and self._chunked:
            self._look(self._lines.taken)
        return event

    def _begin(self, request: h11.Request) -> None:
        self._chunks = self._bytes = 0
        names, head = [name for name, _ in request.headers], self._lines.taken
        self._chunked = b"transfer-encoding" in names
        self._look(head)
        lengths = _LENGTHS.findall(head)
        if len(lengths) > 1 or b"," in b"".join(lengths):
            self._refuse("the request has more than one Content-Length; send one")
        if self._chunked and lengths:
            self._refuse("the request has Content-Length and Transfer-Encoding; send one of them")
        if self._chunked and request.http_version < b"1.1":
            self._refuse("HTTP/1.0 has no Transfer-Encoding; send Content-Length")

    def _look(self, lines: bytes) -> None:
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
    """HTTP/1.1 of which every wait for the client has an end.

    uvicorn itself waits as long as it takes: for a request's head, for what is left of a body that
    has been answered, and for a client to take its answer. How long a body may take that is still
    to be answered is the application's to say.
    """

    def __init__(self, *arguments: Any, seconds: float, **options: Any) -> None:
        """Takes what uvicorn gives it.

        Args:
          *arguments: uvicorn's.
          seconds: for a request's head, and between two looks at whether an answer is taken.
          **options: uvicorn's.
        """
        super().__init__(*arguments, **options)
        self.conn: _Strict = _Strict(self.config.h11_max_incomplete_event_size or _MOST_HEAD)
        self._seconds = seconds
        self._end: asyncio.TimerHandle | None = None
        self._left = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Waits for the first request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits no more."""
        self._rest()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Has waited if a request's head is there."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._rest()

    def on_response_complete(self) -> None:
        """Waits for the next request, which may be there already."""
        self._wait()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Waits for the client to take what was sent."""
        super().pause_writing()
        self._wait()

    def resume_writing(self) -> None:
        """Goes on with the answer."""
        super().resume_writing()
        if self.cycle is not None and not self.cycle.response_complete:
            self._rest()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP, or could be read in several ways."""
        self._refuse(400, self.conn.refusal or "the request is not as HTTP has it")
        if self.cycle is not None:
            # Whoever waits for the rest of the body waits no more, and answers nothing.
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _wait(self) -> None:
        self._rest()
        self._left = self.transport.get_write_buffer_size()
        self._end = self.loop.call_later(self._seconds, self._over)

    def _rest(self) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None

    def _over(self) -> None:
        left = self.transport.get_write_buffer_size()
        if 0 < left < self._left:
            self._wait()  # It is taken slowly.
        elif left or self.transport.is_closing():
            self.transport.abort()
        elif self.conn.trailing_data[0]:
            self._refuse(408, "the request did not come whole in time; send it again")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        # Not into an answer that has begun.
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": message}).encode()
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("x-content-type-options", "nosniff"),
                ("connection", "close"),
            ]
            for event in (
                h11.Response(status_code=status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
