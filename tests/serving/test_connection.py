"""Over sockets, since nothing else is as wrong as a client can be; the tests make time run out."""

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
    """Answers at once, whatever is still to come, or when everything has come."""
    while scope["path"] == "/whole" and (await receive()).get("more_body"):
        pass
    headers = [(b"content-length", b"%d" % (LARGE if scope["path"] == "/large" else 2))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    body = bytes(LARGE) if scope["path"] == "/large" else b"ok"
    await send({"type": "http.response.body", "body": body})


class Noting(Connection):
    """Notes what it has dealt with."""

    received = b""

    def data_received(self, data):
        super().data_received(data)
        self.received += data


class Server(uvicorn.Server):
    """Notes the timers of its connections, which never run out by themselves."""

    def __init__(self, port):
        http = functools.partial(Noting, seconds=SECONDS)
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
        """The timers that have been neither stopped nor run out."""
        return [timer for timer, _ in self.timers if not timer.cancelled()]

    def run_out(self):
        """Lets the time of every running timer pass."""

        async def now():
            for timer, callback in list(self.timers):
                if not timer.cancelled():
                    timer.cancel()
                    callback()

        asyncio.run_coroutine_threadsafe(now(), self.loop).result(20)

    def received(self):
        """What the only connection has dealt with."""
        return b"".join(each.received for each in list(self.server_state.connections))

    def unsent(self):
        """Bytes that the only connection has not sent yet."""
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
    running.run_out()
    wait_for(lambda: not running.server_state.connections)
    running.timers.clear()


@pytest.fixture
def connection(server):
    with socket.create_connection(("127.0.0.1", server.port), 20) as made:
        # Of a large answer most waits on the server's side.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        wait_for(lambda: server.timers)
        yield made


def rest(connection):
    """All that comes until the other side closes."""
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
    """Takes so many answers that end with ok."""
    found = b""
    while found.count(b"ok") < count:
        piece = connection.recv(1 << 16)
        assert piece, found
        found += piece


def error_of(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


@pytest.mark.parametrize("text", [b"G", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_a_head_that_does_not_come_whole_is_given_up(server, connection, text):
    for place in range(len(text)):
        connection.sendall(text[place : place + 1])
        wait_for(lambda place=place: server.received() == text[: place + 1])
    # Drops give it no more time.
    assert len(server.timers) == len(server.running()) == 1
    server.run_out()
    status, error = error_of(rest(connection))
    assert status == 408 and "did not come whole" in error


def test_who_says_nothing_is_told_nothing(server, connection):
    server.run_out()
    assert rest(connection) == b""


@pytest.mark.parametrize("text", [b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n"])
def test_what_is_no_http_is_said_to_be(connection, text):
    connection.sendall(text)
    status, error = error_of(rest(connection))
    assert status == 400 and "not as HTTP has it" in error


CHUNKED = b"POST /whole HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("text", "match"),
    [
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
def test_what_a_proxy_may_read_otherwise_is_refused(connection, text, match):
    connection.sendall(text)
    status, error = error_of(rest(connection))
    assert status == 400 and match in error


def test_a_chunked_body_comes_whole(connection):
    connection.sendall(CHUNKED + b"\r\n5;a=b\r\nabcde\r\n0\r\nX-A: b\r\n\r\n" + GET)
    answers(connection, 2)


def test_many_small_chunks_are_refused(connection):
    """A thousand are to spare; one more is for 256 bytes."""
    connection.sendall(CHUNKED + b"\r\n" + b"1\r\na\r\n" * 1000 + b"0\r\n\r\n")
    answers(connection)
    large = b"800\r\n" + bytes(2048) + b"\r\n"
    connection.sendall(CHUNKED + b"\r\n" + large + b"1\r\na\r\n" * 1007 + b"0\r\n\r\n")
    answers(connection)
    connection.sendall(CHUNKED + b"\r\n" + b"1\r\na\r\n" * 1004)
    status, error = error_of(rest(connection))
    assert status == 400 and "1004 bytes in 1004; send at least 256 bytes in each" in error


def test_every_request_has_the_whole_time(server, connection):
    for _ in range(3):
        before = server.running()
        connection.sendall(GET * 2)
        answers(connection, 2)
        wait_for(lambda: len(server.running()) == 1)
        assert len(before) == 1 and before[0].cancelled()
    connection.sendall(b"GET")
    wait_for(lambda: server.received().endswith(b"GET"))
    server.run_out()
    assert error_of(rest(connection))[0] == 408


def test_the_rest_of_a_body_that_was_answered_is_not_waited_for(server, connection):
    connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999\r\n\r\n")
    answers(connection)
    wait_for(lambda: len(server.running()) == 1)
    timers = len(server.timers)
    connection.sendall(b"a" * 500)
    wait_for(lambda: server.received().endswith(b"a" * 500))
    server.run_out()
    assert len(server.timers) == timers and rest(connection) == b""


def test_rubbish_behind_an_answered_head_closes_the_connection(connection):
    connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    answers(connection)
    connection.sendall(b"no number\r\n")
    assert rest(connection) == b""


def test_an_answer_that_nobody_takes_is_given_up(server, connection):
    connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_for(server.unsent)

    def gone():
        server.run_out()
        return not server.server_state.connections

    wait_for(gone)
    assert len(rest(connection)) < LARGE


def test_an_answer_that_is_taken_slowly_comes_whole(server, connection):
    connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    wait_for(server.unsent)
    count = 0
    for _ in range(3):
        unsent = server.unsent()
        while server.unsent() == unsent:
            piece = connection.recv(1 << 16)
            assert piece, count
            count += len(piece)
        server.run_out()
    assert count < LARGE
    assert count + len(rest(connection)) > LARGE
