import asyncio
import threading

import pytest
from starlette.requests import ClientDisconnect

from warp_translate.errors import UserError
from warp_translate.serving import admission as admissions
from warp_translate.serving import footprint
from warp_translate.serving.admission import (
    Admission,
    Ticket,
    ticket_of,
)
from warp_translate.serving.admission import (
    AdmissionMiddleware as Gate,
)
from warp_translate.serving.architecture import Architecture
from warp_translate.serving.batcher import Busy
from warp_translate.serving.footprint import Need
from warp_translate.serving.middleware import TooLarge

SLOW, QUICK = 1.0, 0.01


@pytest.fixture
def admission():
    """Of the memory 100 for bodies, 50 for quick requests and 650 for the others."""
    return Admission(memory=800, most_requests=4, seconds=20.0)


def held(admission):
    lanes = admission._quick, admission._slow
    return [admission._bodies.held, *(lane.share.held for lane in lanes)]


def counted(admission):
    return [admission._places.held, admission._large.held]


async def here():
    return False


def work(admission, need, do=lambda got: got, gone=here):
    """A request's whole way."""

    async def run():
        ticket = Ticket()
        try:
            await admission.count(ticket)
            return await admission.work(ticket, 7, lambda got: need, do, gone)
        finally:
            admission.release(ticket)

    return asyncio.ensure_future(run())


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


def test_memory_is_shared_and_the_oldest_goes_first():
    """Of any sizes in any order: never more than there is, and all of them are done."""
    admission = Admission(memory=800, most_requests=40, seconds=20.0)
    most, order = 0, []

    async def run():
        def do(size):
            def count(got):
                nonlocal most
                order.append(size)
                most = max(most, held(admission)[2])
                return size

            return count

        sizes = [1 + 151 * number % 600 for number in range(40)]
        found = await asyncio.gather(
            *(work(admission, Need(size, SLOW), do(size)) for size in sizes)
        )
        assert found == sizes and sorted(order) == sorted(sizes)

    asyncio.run(run())
    assert 0 < most <= 650 and held(admission) == [0, 0, 0]


def test_quick_requests_pass_the_others(admission):
    go = threading.Event()

    async def run():
        first = [work(admission, Need(500, SLOW), lambda got: go.wait(20)) for _ in range(3)]
        await until(lambda: admission._slow.count == 3 and held(admission)[2] == 500)
        # What is small but takes long waits behind them.
        late = work(admission, Need(1, SLOW))
        await until(lambda: admission._slow.count == 4)
        assert await work(admission, Need(12, QUICK)) == 7
        assert not late.done() and admission._slow.count == 4
        with pytest.raises(Busy, match="4 large requests are being answered"):
            await work(admission, Need(1, SLOW))
        go.set()
        assert await late == 7 and await asyncio.gather(*first) == [True] * 3

    asyncio.run(run())
    assert held(admission) == [0, 0, 0]


def test_requests_are_counted_and_large_ones_apart(monkeypatch):
    monkeypatch.setattr(admissions, "_WAIT_SECONDS", 0.0)
    admission = Admission(memory=1 << 30, most_requests=2, seconds=20.0)
    tickets = [Ticket() for _ in range(6)]

    async def run():
        for ticket in tickets[:2]:
            await admission.count(ticket)
        with pytest.raises(Busy, match="2 requests are being answered"):
            await admission.count(tickets[2])
        # A large body does not keep small requests out.
        for ticket in tickets[:2]:
            await admission.hold(ticket, 1 << 20)
        for ticket in tickets[2:4]:
            await admission.count(ticket)
        with pytest.raises(Busy, match="2 large requests are being answered"):
            await admission.hold(tickets[2], 1 << 20)
        assert counted(admission) == [2, 2]

    asyncio.run(run())
    for ticket in tickets:
        admission.release(ticket)
    assert counted(admission) == [0, 0] and held(admission) == [0, 0, 0]


def test_what_never_fits_is_told_its_size_and_the_remedy(admission):
    need = Need(651, SLOW, "40 x 50 pixels at factor 1", "ask for a larger factor")

    async def run():
        with pytest.raises(TooLarge, match=r"40 x 50 pixels at factor 1 .* larger factor$"):
            await work(admission, need)

    asyncio.run(run())
    assert held(admission) == [0, 0, 0]


def test_who_would_wait_too_long_is_told_how_long(admission):
    go = threading.Event()

    async def run():
        first = work(admission, Need(10, 30.0), lambda got: go.wait(20))
        await until(lambda: admission._slow.count)
        with pytest.raises(Busy, match="about 30 s") as raised:
            await work(admission, Need(10, SLOW))
        assert raised.value.seconds == 30 == admission.seconds()
        go.set()
        await first

    asyncio.run(run())
    assert admission.seconds() == 1


def test_the_time_follows_from_what_the_last_ones_took():
    now = 0.0
    admission = Admission(memory=800, most_requests=4, seconds=20.0, clock=lambda: now)

    def twice_as_long(got):
        nonlocal now
        now += 20.0

    async def run():
        for _ in range(12):
            await work(admission, Need(10, 10.0), twice_as_long)
        go = threading.Event()
        last = work(admission, Need(10, 5.0), lambda got: go.wait(20))
        await until(lambda: admission._slow.count)
        assert admission.seconds() == 10
        go.set()
        await last

    asyncio.run(run())


def test_no_room_in_time_is_busy_and_nobody_to_answer_is_no_work(monkeypatch):
    admission = Admission(memory=800, most_requests=9, seconds=0.0)
    go = threading.Event()

    async def left():
        return True

    async def run():
        first = work(admission, Need(650, SLOW), lambda got: go.wait(20))
        await until(lambda: held(admission)[2])
        admission._slow._expected = 0.0
        with pytest.raises(Busy, match="other requests take the memory"):
            await work(admission, Need(1, SLOW))
        admission._seconds = 20.0
        waits = work(admission, Need(1, SLOW), lambda got: pytest.fail("worked"), left)
        await until(lambda: admission._slow.count == 2)
        go.set()
        await first
        with pytest.raises(ClientDisconnect):
            await waits

    asyncio.run(run())
    assert held(admission) == [0, 0, 0] and admission._slow.count == 0


def test_who_leaves_when_memory_is_given_to_it_gives_it_back():
    async def run():
        share = admissions._Share(10)
        await share.take(10, 20.0)
        waiting = [asyncio.ensure_future(share.take(size, 20.0)) for size in (10, 4)]
        await asyncio.sleep(0)
        share.give(10)
        waiting[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]
        assert await waiting[1] and share.held == 4

    asyncio.run(run())


def test_what_fails_holds_nothing_afterwards(admission):
    def fails(got):
        raise ValueError("no")

    async def run():
        for _ in range(9):
            with pytest.raises(ValueError, match="no"):
                await work(admission, Need(600, SLOW), fails)

    asyncio.run(run())
    assert held(admission) == [0, 0, 0] and admission._slow.count == 0


def test_bodies_and_answers_are_counted_until_the_answer_is_sent(admission, monkeypatch):
    monkeypatch.setattr(admissions, "_CHUNK_BYTES", 0)
    monkeypatch.setattr(admissions, "_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(admissions, "_SMALL_BYTES", 10)
    monkeypatch.setattr(admissions, "_ANSWER_BYTES", 8)
    seen, sent = [], []

    async def app(scope, receive, send):
        ticket = ticket_of(scope)
        await admission.count(ticket)
        while (await receive())["more_body"]:
            seen.append(held(admission))
        await admission.work(ticket, b"", lambda got: Need(90, SLOW), lambda got: got, here)
        admission.keep(ticket, 20)
        seen.append(held(admission))
        assert counted(admission) == [0, 1]
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": bytes(range(20))})

    async def receive():
        return parts.pop(0)

    async def send(message):
        sent.append((message, held(admission)))

    parts = [{"body": bytes(15), "more_body": more} for more in (True, True, False)]
    gate = Gate(app, admission=admission)
    asyncio.run(gate({"type": "http"}, receive, send))
    # Twice each piece, until they are joined.
    assert seen == [[30, 0, 0], [60, 0, 0], [45, 0, 20]]
    bodies = [(message["body"], message.get("more_body", False)) for message, _ in sent[1:]]
    assert bodies == [
        (bytes(range(8)), True),
        (bytes(range(8, 16)), True),
        (bytes(range(16, 20)), False),
    ]
    assert {tuple(each) for _, each in sent} == {(45, 0, 20)}
    assert held(admission) == [0, 0, 0] and counted(admission) == [0, 0]

    # What a body says of its length is held from the start, and what it does not say as it comes.
    for headers, pieces, size in (([(b"content-length", b"51")], 1, 12), ([], 2, 30)):
        parts = [{"body": bytes(size), "more_body": True} for _ in range(pieces)]
        with pytest.raises(Busy, match="bodies of other requests"):
            asyncio.run(gate({"type": "http", "headers": headers}, receive, send))
        assert not parts
        assert held(admission) == [0, 0, 0] and counted(admission) == [0, 0]


def test_estimates_grow_with_the_padded_picture_and_shrink_with_the_factor():
    architecture = Architecture(24, 6, "projected", 8, 8.0, 0.0, "pretranslated", "full")

    def memory(factor, *shape, with_maps=False):
        need = footprint.of_translation(architecture, shape, factor, 1.0, with_maps=with_maps)
        return need.memory

    assert memory(1, 1, 1000, 1000) > memory(2, 1, 1000, 1000) > memory(8, 1, 1000, 1000)
    assert memory(2, 1, 1000, 1000, with_maps=True) > memory(2, 1, 1000, 1000)
    # A row of pixels is padded to 64 of them.
    assert memory(8, 1, 1, 10_000) == memory(8, 1, 64, 10_000)
    # No more than one and a half million pixels of a stack go together.
    assert memory(2, 64, 500, 500) == memory(2, 8, 500, 500) < 8 * memory(2, 1, 500, 500)


def test_the_memory_that_may_be_used(tmp_path):
    machine = footprint.usable_memory(tmp_path)
    assert machine > 1 << 28
    (tmp_path / "memory.max").write_text("max\n")
    assert footprint.usable_memory(tmp_path) == machine
    (tmp_path / "memory.max").write_text("1000000\n")
    assert footprint.usable_memory(tmp_path) == 750_000
    assert footprint.resident_memory() > 1 << 24
    assert footprint.resident_memory(tmp_path) == 0
    with pytest.raises(UserError, match=r"most_memory=0\.1 GB is too little: the server holds"):
        footprint.room(0.1)
    assert 0 < footprint.room(64) < 64e9
