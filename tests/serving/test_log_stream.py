import json
import os
import threading

import pytest

from warp_translate.serving.log_stream import LogStream


@pytest.fixture
def pipe():
    ends = list(os.pipe())
    yield ends
    for end in ends:
        if end is not None:
            os.close(end)


def fill(end):
    """Fills a pipe, and returns the number of bytes."""
    os.set_blocking(end, False)
    count = 0
    for size in (1 << 12, 1):
        while True:
            try:
                count += os.write(end, bytes(size))
            except BlockingIOError:
                break
    os.set_blocking(end, True)
    return count


def test_full_pipe_blocks_nobody_and_dropped_lines_are_reported(pipe):
    reading, writing = pipe
    filled = fill(writing)
    log = LogStream(writing, most_waiting=8)
    for number in range(100):
        print(number, file=log)
    dropped = log.dropped
    kept = 100 - dropped
    assert kept in (8, 9)  # The thread may hold one.
    with os.fdopen(os.dup(reading), "rb", buffering=0) as file:
        while filled:
            filled -= len(file.read(filled))
        assert [int(file.readline()) for _ in range(kept)] == list(range(kept))
    print("next", file=log)
    print("and then", file=log)
    log.end()
    print("too late", file=log)
    assert log.dropped == dropped + 1
    report, *lines = os.read(reading, 1 << 16).splitlines()
    assert json.loads(report)["dropped_lines"] == dropped
    assert lines == [b"next", b"and then"]


def test_lines_of_several_threads_stay_whole(pipe):
    log = LogStream(pipe[1])
    log.write("the first half, ")
    other = threading.Thread(target=lambda: print("another thread\udcff", file=log))
    other.start()
    other.join()
    print("the second", "x" * 99_999, file=log)
    log.end()
    first, second, *more = os.read(pipe[0], 1 << 16).split(b"\n")
    assert first == b"another thread\\udcff" and more == [b""]
    assert second.startswith(b"the first half, the second xxx") and len(second) < 20_000


def test_closed_pipe_drops_lines(pipe):
    os.close(pipe[0])
    pipe[0] = None
    for descriptor in (pipe[1], None):
        log = LogStream(descriptor)
        print("anybody?", file=log)
        log.end()
        assert log.dropped == 1
