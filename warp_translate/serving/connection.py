"""A connection of uvicorn's that waits for nobody for ever and says what is wrong in JSON."""

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


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
        """Answers what is no HTTP."""
        self._refuse(400, "the request is not as HTTP has it")

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
                ("connection", "close"),
            ]
            for event in (
                h11.Response(status_code=status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
