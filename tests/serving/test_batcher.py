import threading

import numpy as np
import pytest

from warp_translate.serving import engine as engines
from warp_translate.serving.batcher import Batcher, Busy, TooLate


class Gate:
    """An engine that inverts, once it is let; remembers the shapes that it was given."""

    def __init__(self):
        self.open = threading.Event()
        self.busy = threading.Event()
        self.shapes = []

    def translate(self, images, factor=None, *, with_maps=False):
        self.busy.set()
        assert self.open.wait(20)
        self.shapes.append(images.shape)
        if images[0, 0, 0, 0] == 13:
            raise RuntimeError("unlucky")
        return engines.Translated(255 - images, None)


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def batcher(gate):
    made = []

    def make(**options):
        made.append(Batcher(**options))
        return made[-1]

    yield make
    gate.open.set()
    for each in made:
        each.close()


def image(height, width, value=0):
    return np.full((height, width, 3), value, np.uint8)


def first_in(batcher, gate):
    """A request that is being answered, so that those after it wait."""
    future = batcher.submit(gate, image(16, 16), 2)
    assert gate.busy.wait(20)
    return future


def test_every_image_gets_the_translation_that_it_gets_alone(exported, rng):
    engine = engines.OnnxEngine(exported[0])
    sizes = [(30, 30), (32, 25), (25, 32), (17, 40), (32, 32), (9, 5), (1, 1), (16, 16)] * 3
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    batcher = Batcher(batch=5)
    together = [batcher.submit(engine, each, 2, with_maps=True) for each in images]
    for each, future in zip(images, together, strict=True):
        alone, found = engine.translate(each[None], 2, with_maps=True), future.result(60)
        # A batch may be summed in another order.
        np.testing.assert_allclose(found.output.astype(int), alone.output[0].astype(int), atol=1)
        for name, value in alone.maps.items():
            np.testing.assert_allclose(found.maps[name], value[0], atol=2e-2, err_msg=name)
    batcher.close()


def test_those_of_one_padded_size_go_together_and_the_oldest_first(batcher, gate):
    queue = batcher(batch=3)
    first = first_in(queue, gate)
    sizes = [(40, 40), (30, 30), (25, 32), (40, 33), (26, 26), (32, 32), (9, 9)]
    futures = [queue.submit(gate, image(*size, n), 2) for n, size in enumerate(sizes)]
    assert queue.waiting == 7
    gate.open.set()
    for number, (size, future) in enumerate(zip(sizes, futures, strict=True)):
        assert (future.result(20).output == 255 - number).all()
        assert future.result().output.shape == (*size, 3)
    assert (first.result(20).output == 255).all()
    assert gate.shapes[1:] == [
        *[(2, 40, 40, 3), (3, 32, 32, 3)],
        *[(1, 32, 32, 3), (1, 16, 16, 3)],
    ]


def test_large_images_go_alone(batcher, gate):
    queue = batcher(batch=8, batch_pixels=32 * 32 * 2)
    first_in(queue, gate)
    futures = [queue.submit(gate, image(32, 32), 2) for _ in range(3)]
    futures += [queue.submit(gate, image(64, 64), 2) for _ in range(2)]
    gate.open.set()
    for future in futures:
        future.result(20)
    assert [shape[0] for shape in gate.shapes[1:]] == [2, 1, 1, 1]


def test_a_full_queue_refuses_and_goes_on(batcher, gate):
    queue = batcher(most_waiting=2)
    futures = [first_in(queue, gate)]
    futures += [queue.submit(gate, image(8, 8), 2) for _ in range(2)]
    with pytest.raises(Busy, match="2 requests are waiting"):
        queue.submit(gate, image(8, 8), 2)
    gate.open.set()
    for future in futures:
        future.result(20)
    assert queue.submit(gate, image(8, 8), 2).result(20).output.shape == (8, 8, 3)


def test_quick_requests_do_not_wait_for_the_others(batcher, gate):
    queue, quick = batcher(most_waiting=2), Gate()
    quick.open.set()
    futures = [first_in(queue, gate), *(queue.submit(gate, image(8, 8), 2) for _ in range(2))]
    # The other queue is full, and its engine is at work.
    found = queue.submit(quick, image(8, 8, 9), 2, quick=True).result(20)
    assert (found.output == 246).all() and queue.waiting == 2
    assert not any(future.done() for future in futures)
    gate.open.set()
    for future in futures:
        future.result(20)


def test_what_an_engine_raises_reaches_its_requests_alone(batcher, gate):
    queue = batcher()
    first_in(queue, gate)
    bad = queue.submit(gate, image(40, 40, 13), 2)
    good = queue.submit(gate, image(8, 8), 2)
    gate.open.set()
    with pytest.raises(RuntimeError, match="unlucky"):
        bad.result(20)
    assert good.result(20) and queue.alive


def test_who_waits_too_long_is_told_and_who_leaves_is_dropped(batcher, gate):
    now = 0.0
    queue = batcher(clock=lambda: now)
    first_in(queue, gate)
    late = queue.submit(gate, image(8, 8), 2, seconds=5)
    patient = queue.submit(gate, image(8, 8), 2, seconds=50)
    gone = queue.submit(gate, image(8, 8), 2)
    assert gone.cancel()
    now = 6.0
    gate.open.set()
    with pytest.raises(TooLate, match="waited 6 s"):
        late.result(20)
    patient.result(20)
    assert gate.shapes == [(1, 16, 16, 3), (1, 16, 16, 3)]


def test_closing_finishes_what_was_taken(batcher, gate):
    queue = batcher()
    futures = [first_in(queue, gate), *(queue.submit(gate, image(8, 8), 2) for _ in range(5))]
    closing = threading.Thread(target=queue.close)
    closing.start()
    while queue.alive:
        pass
    with pytest.raises(Busy, match="stopping"):
        queue.submit(gate, image(8, 8), 2)
    gate.open.set()
    closing.join(20)
    assert not closing.is_alive() and all(future.done() for future in futures)


def test_many_clients_get_their_own(exported, rng):
    """Whose answer is whose, checked against each one's own translation."""
    engine = engines.OnnxEngine(exported[0])
    batcher = Batcher(batch=4)
    failures = []

    def client(seed):
        chance = np.random.default_rng(seed)
        for _ in range(6):
            size = chance.choice([8, 15, 16, 24, 31], 2)
            mine = chance.integers(0, 256, (*size, 3), dtype=np.uint8)
            found = batcher.submit(engine, mine, 2).result(60).output
            alone = engine.translate(mine[None], 2).output[0]
            if np.abs(found.astype(int) - alone).max() > 1:
                failures.append(seed)

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures and not any(thread.is_alive() for thread in threads)
    batcher.close()
