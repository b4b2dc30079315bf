"""Over sockets, since nothing else is as wrong as a client can be."""

import contextlib
import functools
import json
import socket
import threading
import time

import pytest
import uvicorn

from warp_translate.serving.connection import Connection

SECONDS = 0.4
LARGE = 30_000_000


async def app(scope, receive, send):
    """Answers at once, whatever is still to come."""
    headers = [(b"content-length", b"%d" % (LARGE if scope["path"] == "/large" else 2))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    body = bytes(LARGE) if scope["path"] == "/large" else b"ok"
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def server():
    settings = uvicorn.Config(
        app,
        http=functools.partial(Connection, seconds=SECONDS),
        lifespan="off",
        log_level="critical",
        timeout_keep_alive=20,
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = uvicorn.Server(settings)
        made.port = listener.getsockname()[1]
        thread = threading.Thread(target=made.run, kwargs={"sockets": [listener]})
        thread.start()
        yield made
        made.should_exit = True
        thread.join(20)


@pytest.fixture
def connect(server):
    with contextlib.ExitStack() as stack:

        def make():
            address = ("127.0.0.1", server.port)
            return stack.enter_context(socket.create_connection(address, 20))

        yield make


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
        time.sleep(0.02)


def error_of(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


@pytest.mark.parametrize("text", [b"G", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_a_head_that_does_not_come_whole_is_given_up(connect, text):
    connection = connect()
    connection.sendall(text)
    status, error = error_of(rest(connection))
    assert status == 408 and "did not come whole" in error


def test_a_head_by_drops_has_no_more_time(connect):
    connection = connect()
    with contextlib.suppress(OSError):
        for _ in range(200):
            connection.sendall(b"a")
            time.sleep(SECONDS / 10)
        raise AssertionError("the connection is still open")


def test_who_says_nothing_is_told_nothing(connect):
    assert rest(connect()) == b""


@pytest.mark.parametrize("text", [b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n"])
def test_what_is_no_http_is_said_to_be(connect, text):
    connection = connect()
    connection.sendall(text)
    status, error = error_of(rest(connection))
    assert status == 400 and "not as HTTP has it" in error


def test_requests_follow_each_other_for_longer_than_one_may_take(connect):
    connection = connect()
    for _ in range(6):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
        found = b""
        while found.count(b"ok") < 2:
            found += connection.recv(1 << 16)
        time.sleep(SECONDS / 3)
    connection.sendall(b"GET")
    assert error_of(rest(connection))[0] == 408


def test_the_rest_of_a_body_that_was_answered_is_not_waited_for(connect):
    connection = connect()
    connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999\r\n\r\n")
    with contextlib.suppress(OSError):
        for _ in range(200):
            connection.sendall(b"a")
            time.sleep(SECONDS / 10)
        raise AssertionError("the connection is still open")
    assert rest(connection).endswith(b"ok")


def test_rubbish_behind_an_answered_head_closes_the_connection(connect):
    connection = connect()
    connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    time.sleep(SECONDS / 4)
    connection.sendall(b"no number\r\n")
    assert rest(connection).endswith(b"ok")


def test_an_answer_that_nobody_takes_is_given_up(server, connect):
    connection = connect()
    connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_for(lambda: server.server_state.connections)
    wait_for(lambda: not server.server_state.connections)
    assert len(rest(connection)) < LARGE


def test_an_answer_that_is_taken_slowly_comes_whole(connect):
    connection = connect()
    connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    count, begin = 0, time.monotonic()
    while piece := connection.recv(1 << 20):
        count += len(piece)
        time.sleep(SECONDS / 8)
    assert count > LARGE and time.monotonic() - begin > 2 * SECONDS
