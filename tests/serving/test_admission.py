import asyncio
import threading

import pytest
from starlette.requests import ClientDisconnect

from warp_translate.errors import UserError
from warp_translate.serving import admission as admissions
from warp_translate.serving import footprint
from warp_translate.serving.admission import Admission, AdmissionMiddleware, Ticket, ticket_of
from warp_translate.serving.architecture import Architecture
from warp_translate.serving.batcher import Busy
from warp_translate.serving.footprint import Need
from warp_translate.serving.middleware import TooLarge

SLOW, QUICK = 1.0, 0.01


@pytest.fixture
def admission():
    """Memory: 100 for bodies, 50 for quick requests and 650 for the others."""
    return Admission(memory=800, most_requests=4, seconds=20.0)


def held(admission):
    lanes = admission._quick, admission._slow
    return [admission._bodies.held, *(lane.share.held for lane in lanes)]


def counted(admission):
    return [admission._places.held, admission._large.held]


async def connected():
    return False


def work(admission, need, do=lambda value: value, is_gone=connected):
    """A request's whole way."""

    async def run():
        ticket = Ticket()
        try:
            await admission.count(ticket)
            return await admission.work(ticket, 7, lambda value: need, do, is_gone)
        finally:
            admission.release(ticket)

    return asyncio.ensure_future(run())


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


def test_memory_is_never_exceeded_and_every_request_is_answered():
    admission = Admission(memory=800, most_requests=40, seconds=600.0)
    peaks = []

    async def run():
        def do(size):
            return lambda _: peaks.append(held(admission)[2]) or size

        sizes = [1 + 151 * number % 600 for number in range(40)]
        requests = [work(admission, Need(size, SLOW), do(size)) for size in sizes]
        assert await asyncio.gather(*requests) == sizes

    asyncio.run(run())
    assert len(peaks) == 40 and 0 < max(peaks) <= 650 and held(admission) == [0, 0, 0]


def test_quick_requests_overtake_the_others(admission):
    go = threading.Event()

    async def run():
        first = [work(admission, Need(500, SLOW), lambda _: go.wait(20)) for _ in range(3)]
        await until(lambda: admission._slow.count == 3 and held(admission)[2] == 500)
        # Small but slow ones wait behind them.
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


def test_small_and_large_requests_are_counted_separately(monkeypatch):
    monkeypatch.setattr(admissions, "_WAIT_SECONDS", 0.0)
    admission = Admission(memory=1 << 30, most_requests=2, seconds=20.0)
    tickets = [Ticket() for _ in range(6)]

    async def run():
        for ticket in tickets[:2]:
            await admission.count(ticket)
        with pytest.raises(Busy, match="2 requests are being answered"):
            await admission.count(tickets[2])
        # Large bodies do not keep small requests out.
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


def test_failed_and_too_large_requests_hold_nothing(admission):
    def fail(_):
        raise ValueError("no")

    async def run():
        need = Need(651, SLOW, "40 x 50 pixels at factor 1", "ask for a larger factor")
        with pytest.raises(TooLarge, match=r"40 x 50 pixels at factor 1 .* larger factor$"):
            await work(admission, need)
        for _ in range(9):
            with pytest.raises(ValueError, match="no"):
                await work(admission, Need(600, SLOW), fail)

    asyncio.run(run())
    assert held(admission) == [0, 0, 0] and admission._slow.count == 0


def test_expected_wait_is_reported_and_adapts_to_measured_times():
    now = 0.0
    admission = Admission(memory=800, most_requests=4, seconds=20.0, clock=lambda: now)

    def twice_as_long(_):
        nonlocal now
        now += 20.0

    async def expected(seconds):
        go = threading.Event()
        request = work(admission, Need(10, seconds), lambda _: go.wait(20))
        await until(lambda: admission._slow.count)
        found = admission.seconds()
        if found > 20:
            with pytest.raises(Busy, match=f"about {found} s") as raised:
                await work(admission, Need(10, SLOW))
            assert raised.value.seconds == found
        admission._slow._since = now - seconds  # As long as expected.
        go.set()
        await request
        return found

    async def run():
        assert await expected(30.0) == 30
        assert admission.seconds() == 1
        for _ in range(12):
            await work(admission, Need(10, 10.0), twice_as_long)
        assert await expected(5.0) == 10

    asyncio.run(run())


def test_requests_without_room_in_time_or_without_a_client_do_no_work():
    admission = Admission(memory=800, most_requests=9, seconds=0.0)
    go = threading.Event()

    async def gone():
        return True

    async def run():
        first = work(admission, Need(650, SLOW), lambda _: go.wait(20))
        await until(lambda: held(admission)[2])
        admission._slow._expected = 0.0
        with pytest.raises(Busy, match="other requests take the memory"):
            await work(admission, Need(1, SLOW))
        admission._seconds = 20.0
        waits = work(admission, Need(1, SLOW), lambda _: pytest.fail("worked"), gone)
        await until(lambda: admission._slow.count == 2)
        go.set()
        await first
        with pytest.raises(ClientDisconnect):
            await waits

    asyncio.run(run())
    assert held(admission) == [0, 0, 0] and admission._slow.count == 0


def test_cancelled_request_returns_the_memory_just_given_to_it():
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


def test_bodies_and_responses_are_held_until_the_response_is_sent(admission, monkeypatch):
    for name, value in (
        *(("_CHUNK_BYTES", 0), ("_WAIT_SECONDS", 0.0)),
        *(("_SMALL_BYTES", 10), ("_ANSWER_BYTES", 8)),
    ):
        monkeypatch.setattr(admissions, name, value)
    seen, sent = [], []

    async def app(scope, receive, send):
        ticket = ticket_of(scope)
        await admission.count(ticket)
        while (await receive())["more_body"]:
            seen.append(held(admission))
        need = Need(90, SLOW)
        await admission.work(ticket, b"", lambda _: need, lambda value: value, connected)
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
    middleware = AdmissionMiddleware(app, admission=admission)
    asyncio.run(middleware({"type": "http"}, receive, send))
    # Every chunk twice until they are joined.
    assert seen == [[30, 0, 0], [60, 0, 0], [45, 0, 20]]
    bodies = [(message["body"], message.get("more_body", False)) for message, _ in sent[1:]]
    pieces = (bytes(range(8)), bytes(range(8, 16)), bytes(range(16, 20)))
    assert bodies == list(zip(pieces, (True, True, False), strict=True))
    assert {tuple(each) for _, each in sent} == {(45, 0, 20)}
    assert held(admission) == [0, 0, 0] and counted(admission) == [0, 0]

    # A declared length is held from the start, an undeclared one as it arrives.
    for headers, count, size in (([(b"content-length", b"51")], 1, 12), ([], 2, 30)):
        parts = [{"body": bytes(size), "more_body": True} for _ in range(count)]
        with pytest.raises(Busy, match="bodies of other requests"):
            asyncio.run(middleware({"type": "http", "headers": headers}, receive, send))
        assert not parts
        assert held(admission) == [0, 0, 0] and counted(admission) == [0, 0]


def test_estimate_grows_with_the_padded_image_and_shrinks_with_the_factor():
    architecture = Architecture(24, 6, "projected", 8, 8.0, 0.0, "pretranslated", "full")

    def memory(factor, *shape, with_maps=False):
        need = footprint.of_translation(architecture, shape, factor, 1.0, with_maps=with_maps)
        return need.memory

    assert memory(1, 1, 1000, 1000) > memory(2, 1, 1000, 1000) > memory(8, 1, 1000, 1000)
    assert memory(2, 1, 1000, 1000, with_maps=True) > memory(2, 1, 1000, 1000)
    # A row is padded to 64 rows.
    assert memory(8, 1, 1, 10_000) == memory(8, 1, 64, 10_000)
    # A batch has at most 1.5 million pixels.
    assert memory(2, 64, 500, 500) == memory(2, 8, 500, 500) < 8 * memory(2, 1, 500, 500)


def test_usable_memory_follows_the_machine_and_the_container(tmp_path):
    machine = footprint.usable_memory(tmp_path)
    assert machine > 1 << 28
    for text, expected in (("max\n", machine), ("1000000\n", 750_000)):
        (tmp_path / "memory.max").write_text(text)
        assert footprint.usable_memory(tmp_path) == expected
    assert footprint.resident_memory() > 1 << 24
    assert footprint.resident_memory(tmp_path) == 0
    with pytest.raises(UserError, match=r"most_memory=0\.1 GB is too little: the server holds"):
        footprint.room(0.1)
    assert 0 < footprint.room(64) < 64e9
