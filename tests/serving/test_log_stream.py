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
    """Writes to a pipe until nothing more fits; gives the number of bytes."""
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


def test_a_pipe_that_nobody_reads_holds_nobody_up(pipe):
    reading, writing = pipe
    filled = fill(writing)
    log = LogStream(writing, most_waiting=8)
    for number in range(100):
        print(number, file=log)
    kept = 100 - log.dropped
    assert kept in (8, 9)  # One of them may be with the thread.
    log.end(0)
    # It is read after all.
    with os.fdopen(os.dup(reading), "rb") as file:
        file.read(filled)
        assert [int(file.readline()) for _ in range(kept)] == list(range(kept))
    print("too late", file=log)
    assert log.dropped == 101 - kept


def test_the_next_line_is_told_how_many_are_missing(pipe):
    reading, writing = pipe
    filled = fill(writing)
    log = LogStream(writing, most_waiting=8)
    for number in range(100):
        print(number, file=log)
    dropped = log.dropped
    with os.fdopen(os.dup(reading), "rb", buffering=0) as file:
        while filled:
            filled -= len(file.read(filled))
        for _ in range(100 - dropped):
            file.readline()
    print("next", file=log)
    print("and then", file=log)
    log.end()
    told, *lines = os.read(reading, 1 << 16).splitlines()
    assert json.loads(told)["dropped_lines"] == dropped == log.dropped
    assert lines == [b"next", b"and then"]


def test_lines_stay_whole_whoever_writes(pipe):
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


def test_a_reader_that_has_gone_is_no_failure(pipe):
    os.close(pipe[0])
    pipe[0] = None
    for descriptor in (pipe[1], None):
        log = LogStream(descriptor)
        print("anybody?", file=log)
        log.end()
        assert log.dropped == 1
