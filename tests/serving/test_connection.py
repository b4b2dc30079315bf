"""Malformed and slow clients over real sockets; the tests trigger the timers themselves."""

import asyncio
import contextlib
import functools
import json
import socket
import threading
import time

import pytest
import uvicorn

from warp_translate.serving.connection import Connection

SECONDS = 12345.0
LARGE = 30_000_000
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def app(scope, receive, send):
    """Answers at once, or after the whole body."""
    while scope["path"] == "/whole" and (await receive()).get("more_body"):
        pass
    headers = [(b"content-length", b"%d" % (LARGE if scope["path"] == "/large" else 2))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    body = bytes(LARGE) if scope["path"] == "/large" else b"ok"
    await send({"type": "http.response.body", "body": body})


class Recording(Connection):
    """Records the bytes received."""

    received = b""

    def data_received(self, data):
        super().data_received(data)
        self.received += data


class Server(uvicorn.Server):
    """Records the timers of its connections, which never expire by themselves."""

    def __init__(self, port):
        http = functools.partial(Recording, seconds=SECONDS)
        options = {"lifespan": "off", "log_level": "critical", "timeout_keep_alive": 600}
        super().__init__(uvicorn.Config(app, http=http, **options))
        self.port, self.timers = port, []

    def serve_on(self, listener):
        self.loop = asyncio.new_event_loop()
        later = self.loop.call_later

        def call_later(delay, callback, *arguments, **options):
            timer = later(delay, callback, *arguments, **options)
            if delay == SECONDS:
                self.timers.append((timer, callback))
            return timer

        self.loop.call_later = call_later
        self.loop.run_until_complete(self.serve([listener]))

    def running(self):
        """Active timers."""
        return [timer for timer, _ in self.timers if not timer.cancelled()]

    def expire(self):
        """Expires every active timer."""

        async def now():
            for timer, callback in list(self.timers):
                if not timer.cancelled():
                    timer.cancel()
                    callback()

        asyncio.run_coroutine_threadsafe(now(), self.loop).result(20)

    def received(self):
        """Bytes received by the only connection."""
        return b"".join(each.received for each in list(self.server_state.connections))

    def unsent(self):
        """Size of the only connection's send buffer."""
        sizes = [c.transport.get_write_buffer_size() for c in list(self.server_state.connections)]
        return sum(sizes)


@pytest.fixture(scope="module")
def running():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = Server(listener.getsockname()[1])
        thread = threading.Thread(target=made.serve_on, args=[listener], daemon=True)
        thread.start()
        wait_for(lambda: made.started)
        yield made
        made.should_exit = made.force_exit = True
        thread.join(20)


@pytest.fixture
def server(running):
    yield running
    running.expire()
    wait_for(lambda: not running.server_state.connections)
    running.timers.clear()


@pytest.fixture
def connection(server):
    with socket.create_connection(("127.0.0.1", server.port), 20) as made:
        # Keeps most of a large response in the server's buffer.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        wait_for(lambda: server.timers)
        yield made


def rest(connection):
    """Receives until the server closes the connection."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(1 << 20):
            found += piece
    return found


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def answers(connection, count=1):
    """Receives a number of responses."""
    found = b""
    while found.count(b"ok") < count:
        piece = connection.recv(1 << 16)
        assert piece, found
        found += piece


def error_of(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


@pytest.mark.parametrize("text", [b"G", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_incomplete_head_times_out(server, connection, text):
    for place in range(len(text)):
        connection.sendall(text[place : place + 1])
        wait_for(lambda place=place: server.received() == text[: place + 1])
    # Further bytes do not extend the time.
    assert len(server.timers) == len(server.running()) == 1
    server.expire()
    status, error = error_of(rest(connection))
    assert status == 408 and "not received completely" in error


def test_silent_connection_is_closed_without_a_response(server, connection):
    server.expire()
    assert rest(connection) == b""


CHUNKED = b"POST /whole HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"


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
def test_malformed_and_ambiguous_requests_are_400(connection, text, match):
    connection.sendall(text)
    status, error = error_of(rest(connection))
    assert status == 400 and match in error


def test_chunked_body_with_a_trailer_is_accepted(connection):
    connection.sendall(CHUNKED + b"\r\n5;a=b\r\nabcde\r\n0\r\nX-A: b\r\n\r\n" + GET)
    answers(connection, 2)


def test_too_many_small_chunks_are_400(connection):
    """Beyond 1,000 chunks, they must have 256 bytes on average."""
    connection.sendall(CHUNKED + b"\r\n" + b"1\r\na\r\n" * 1000 + b"0\r\n\r\n")
    answers(connection)
    large = b"800\r\n" + bytes(2048) + b"\r\n"
    connection.sendall(CHUNKED + b"\r\n" + large + b"1\r\na\r\n" * 1007 + b"0\r\n\r\n")
    answers(connection)
    connection.sendall(CHUNKED + b"\r\n" + b"1\r\na\r\n" * 1004)
    status, error = error_of(rest(connection))
    assert status == 400 and "1004 bytes in 1004; send at least 256 bytes in each" in error


def test_every_request_gets_the_full_time(server, connection):
    for _ in range(3):
        before = server.running()
        connection.sendall(GET * 2)
        answers(connection, 2)
        wait_for(lambda: len(server.running()) == 1)
        assert len(before) == 1 and before[0].cancelled()
    connection.sendall(b"GET")
    wait_for(lambda: server.received().endswith(b"GET"))
    server.expire()
    assert error_of(rest(connection))[0] == 408


def test_rest_of_an_answered_body_times_out(server, connection):
    connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999\r\n\r\n")
    answers(connection)
    wait_for(lambda: len(server.running()) == 1)
    timers = len(server.timers)
    connection.sendall(b"a" * 500)
    wait_for(lambda: server.received().endswith(b"a" * 500))
    server.expire()
    assert len(server.timers) == timers and rest(connection) == b""


def test_malformed_rest_of_an_answered_body_closes_the_connection(connection):
    connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    answers(connection)
    connection.sendall(b"no number\r\n")
    assert rest(connection) == b""


def test_response_that_is_not_received_is_aborted(server, connection):
    connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_for(server.unsent)

    def gone():
        server.expire()
        return not server.server_state.connections

    wait_for(gone)
    assert len(rest(connection)) < LARGE


def test_response_that_is_received_slowly_is_completed(server, connection):
    connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    wait_for(server.unsent)
    count = 0
    for _ in range(3):
        unsent = server.unsent()
        while server.unsent() == unsent:
            piece = connection.recv(1 << 16)
            assert piece, count
            count += len(piece)
        server.expire()
    assert count < LARGE
    assert count + len(rest(connection)) > LARGE
