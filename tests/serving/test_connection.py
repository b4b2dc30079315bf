"""Malformed and slow clients over real sockets; the tests expire the timers themselves."""

import asyncio
import contextlib
import json
import socket

import pytest
import uvicorn
from uvicorn.server import ServerState

from warp_translate.serving.connection import Connection

pytestmark = pytest.mark.anyio

SECONDS = 12345.0
LARGE = 30_000_000
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST /whole HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"


async def app(scope, receive, send):
    """Answers at once, or after the whole body."""
    while scope["path"] == "/whole" and (await receive()).get("more_body"):
        pass
    body = bytes(LARGE) if scope["path"] == "/large" else b"ok"
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Recording(Connection):
    """Records the number of bytes received."""

    received = 0

    def data_received(self, data):
        super().data_received(data)
        self.received += len(data)


class Client:
    """A client of a connection whose timers never expire by themselves."""

    def __init__(self, loop):
        self._loop, self.timers, self._sent = loop, [], 0
        self._later, loop.call_later = loop.call_later, self._call_later

    def _call_later(self, delay, callback, *arguments, **options):
        timer = self._later(delay, callback, *arguments, **options)
        if delay == SECONDS:
            self.timers.append((timer, callback))
        return timer

    def accept(self):
        """Makes the server's side of the connection."""
        config = uvicorn.Config(app, lifespan="off", log_level="critical", timeout_keep_alive=600)
        config.load()
        options = {"server_state": ServerState(), "app_state": {}, "_loop": self._loop}
        self.server = Recording(config=config, seconds=SECONDS, **options)
        return self.server

    async def connect(self, port):
        mine = socket.create_connection(("127.0.0.1", port), 20)
        # Keeps most of a large response in the server's buffer.
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self.reader, self.writer = await asyncio.open_connection(sock=mine, limit=1 << 16)
        await until(lambda: self.timers)

    def running(self):
        """Active timers."""
        return [timer for timer, _ in self.timers if not timer.cancelled()]

    def expire(self):
        """Expires every active timer."""
        for timer, callback in list(self.timers):
            if not timer.cancelled():
                timer.cancel()
                callback()

    def unsent(self):
        """Size of the server's send buffer."""
        return self.server.transport.get_write_buffer_size()

    async def send(self, data):
        """Sends bytes, and waits until the server has received them."""
        self.writer.write(data)
        self._sent += len(data)
        await until(lambda: self.server.received == self._sent or self.writer.is_closing())

    async def answers(self, count=1):
        """Receives a number of responses."""
        async with asyncio.timeout(20):
            for _ in range(count):
                await self.reader.readuntil(b"ok")

    async def rest(self):
        """Receives until the server closes the connection."""
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := await asyncio.wait_for(self.reader.read(1 << 20), 20):
                found += piece
        return found

    async def error(self):
        """The status and message of the last response."""
        head, _, body = (await self.rest()).partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)["error"]


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def client():
    made = Client(asyncio.get_running_loop())
    async with await asyncio.get_running_loop().create_server(
        made.accept, "127.0.0.1", 0
    ) as server:
        await made.connect(server.sockets[0].getsockname()[1])
        yield made
        made.writer.close()
        if not made.server.transport.is_closing():
            made.server.transport.abort()


@pytest.mark.parametrize("text", [b"G", b"GET / HTTP/1.1\r\nHost: a\r\n"])
async def test_incomplete_head_times_out(client, text):
    for place in range(len(text)):
        await client.send(text[place : place + 1])
    # Further bytes do not extend the time.
    assert len(client.timers) == len(client.running()) == 1
    client.expire()
    status, error = await client.error()
    assert status == 408 and "not received completely" in error


async def test_silent_connection_is_closed_without_a_response(client):
    client.expire()
    assert await client.rest() == b""


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"\x16\x03\x01\r\n\r\n", "not valid HTTP"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", "not valid HTTP"),
        (CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n", "send one of them"),
        (GET[:-2] + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nab", "more than one"),
        (GET[:-2] + b"content-length: 2, 2\r\n\r\nab", "more than one"),
        (GET[:-2] + b"X-A: b\r\n c\r\n\r\n", "folded"),
        (GET.replace(b"\r\n", b"\n"), "CR LF"),
        (GET[:-2] + b"X-A: b\n\r\n", "CR LF"),
        (CHUNKED.replace(b"1.1", b"1.0") + b"\r\n0\r\n\r\n", "HTTP/1.0"),
        (CHUNKED + b"\r\n0\r\n\n", "CR LF"),
        (CHUNKED + b"\r\n1\r\na\r\n0\r\nX-A: b\n\r\n", "CR LF"),
    ],
)
async def test_malformed_and_ambiguous_requests_are_400(client, text, match):
    await client.send(text)
    status, error = await client.error()
    assert status == 400 and match in error


async def test_chunked_body_with_a_trailer_is_accepted(client):
    await client.send(CHUNKED + b"\r\n")
    assert not client.running()  # The application limits the wait for a body.
    await client.send(b"5;a=b\r\nabcde\r\n0\r\nX-A: b\r\n\r\n" + GET)
    await client.answers(2)


async def test_too_many_small_chunks_are_400(client):
    """Beyond 1,000 chunks, they must have 256 bytes on average."""
    await client.send(CHUNKED + b"\r\n" + b"1\r\na\r\n" * 1000 + b"0\r\n\r\n")
    await client.answers()
    large = b"800\r\n" + bytes(2048) + b"\r\n"
    await client.send(CHUNKED + b"\r\n" + large + b"1\r\na\r\n" * 1007 + b"0\r\n\r\n")
    await client.answers()
    await client.send(CHUNKED + b"\r\n" + b"1\r\na\r\n" * 1004)
    status, error = await client.error()
    assert status == 400 and "1004 bytes in 1004; send at least 256 bytes in each" in error


async def test_every_request_gets_the_full_time(client):
    for _ in range(3):
        before = client.running()
        await client.send(GET * 2)
        await client.answers(2)
        await until(lambda: len(client.running()) == 1)
        assert len(before) == 1 and before[0].cancelled()
    await client.send(b"GET")
    client.expire()
    assert (await client.error())[0] == 408


async def test_rest_of_an_answered_body_times_out(client):
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999\r\n\r\n")
    await client.answers()
    await until(lambda: len(client.running()) == 1)
    timers = len(client.timers)
    await client.send(b"a" * 500)
    client.expire()
    assert len(client.timers) == timers and await client.rest() == b""


async def test_malformed_rest_of_an_answered_body_closes_the_connection(client):
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    await client.answers()
    await client.send(b"no number\r\n")
    assert await client.rest() == b""


async def test_response_that_is_not_received_is_aborted(client):
    await client.send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
    await until(client.unsent)

    def aborted():
        client.expire()
        return client.server.transport.is_closing()

    await until(aborted)
    assert len(await client.rest()) < LARGE


async def test_response_that_is_received_slowly_is_completed(client):
    await client.send(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    await until(client.unsent)
    count = 0
    for _ in range(3):
        unsent = client.unsent()
        while client.unsent() == unsent:
            piece = await client.reader.read(1 << 16)
            assert piece, count
            count += len(piece)
        client.expire()
    assert count < LARGE
    assert count + len(await client.rest()) > LARGE
