"""Distribution of examples over processes and devices."""

import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from warp_translate.evaluation.sharded_eval import Accumulator, InOrder, Spread


class Exchange:
    """Gathers between threads that stand for processes."""

    def __init__(self, count):
        self.barrier = threading.Barrier(count, timeout=60)
        self.found = [None] * count
        self.calls = [0] * count

    def gather(self, index):
        def gather(value):
            self.calls[index] += 1
            self.found[index] = value
            self.barrier.wait()
            everyones = list(self.found)
            self.barrier.wait()
            return everyones

        return gather


def as_processes(count, devices, chunk, work):
    """Results of ``work`` in threads with disjoint devices."""
    exchange = Exchange(count)

    def one(index):
        mine = tuple(jax.devices()[index * devices : (index + 1) * devices])
        return work(Spread(chunk, mine, index, count, exchange.gather(index)))

    with ThreadPoolExecutor(count) as pool:
        found = list(pool.map(one, range(count)))
    assert len(set(exchange.calls)) == 1
    return found


def examples_of(count):
    return np.arange(count, dtype=np.int32) * 7 + 3


def dealt(spread, examples):
    """The batches of a process, as `pipeline.eval_batches` deals them."""
    starts = range(0, len(examples), spread.batch)[spread.process_index :: spread.process_count]
    return [{"x": examples[start : start + spread.batch]} for start in starts]


@pytest.mark.parametrize(
    ("processes", "devices", "chunk", "counts"),
    [
        # Fewer examples than devices, whole batches, one less, and one more.
        *((1, 1, 1, (1, 3)), (1, 8, 2, (1, 31, 33)), (2, 1, 4, (3, 16, 17)), (2, 4, 1, (8, 9))),
        *((3, 2, 3, (18, 100)), (8, 1, 1, (2, 32))),
    ],
)
def test_results_hold_every_example_once_and_in_order(processes, devices, chunk, counts):

    def work(spread):
        add = spread.map(lambda shared, batch: ({"x": batch["x"] + shared}, {"y": -batch["x"]}))
        one = spread.share(np.int32(1))
        return [measure(spread, add, one, count) for count in counts]

    def measure(spread, add, one, count):
        measured = Accumulator(spread, add, one, keep=min(3, count), expected=count)
        rows = InOrder(spread)
        for batch in dealt(spread, examples_of(count)):
            made = measured.add(batch)
            size = len(batch["x"])
            rows.add(size, (np.asarray(made["y"])[:size], batch["x"]))
        return measured.totals(), rows.all()

    for found in as_processes(processes, devices, chunk, work):
        for count, (totals, (seen, (made, read))) in zip(counts, found, strict=True):
            examples = examples_of(count)
            assert totals.count == seen == count
            assert totals.means == {"x": float(np.mean(examples + 1.0))}
            np.testing.assert_array_equal(read, examples)
            np.testing.assert_array_equal(made, -examples)
            places = np.linspace(0, count - 1, min(3, count)).round().astype(int)
            assert [example["x"] for example, _ in totals.kept] == list(examples[places])
            assert [one["y"] for _, one in totals.kept] == list(-examples[places])


def test_each_device_measures_its_own_chunk():
    spread = Spread(2, tuple(jax.devices()[:4]))
    rows = spread.map(lambda shared, batch: batch["x"] * shared)(
        spread.share(np.float32(2)), {"x": np.arange(5, dtype=np.float32)}
    )
    chunks = {shard.device: np.asarray(shard.data).tolist() for shard in rows.addressable_shards}
    # Padded with the last example.
    assert [chunks[device] for device in spread.devices] == [[0, 2], [4, 6], [8, 8], [8, 8]]


def test_mapped_function_is_compiled_once():
    spread = Spread(2, tuple(jax.devices()[:2]))
    traced = []
    mapped = spread.map(lambda shared, batch: traced.append(1) or batch["x"] * shared)
    for factor in (2, 3):
        for size in (4, 1):
            mapped(spread.share(np.float32(factor)), {"x": np.ones(size, np.float32)})
    assert len(traced) == 1


@pytest.mark.parametrize("size", [0, 5])
def test_batch_of_invalid_size_is_an_error(size):
    spread = Spread(2, tuple(jax.devices()[:2]))
    mapped = spread.map(lambda shared, batch: batch["x"])
    with pytest.raises(
        ValueError, match=f"a batch must hold 1 to 4 examples, 2 on each of 2 devices, got {size}"
    ):
        mapped((), {"x": np.zeros(size)})


@pytest.mark.parametrize(
    "shares",
    [
        ((2, 1), (2, 2)),  # The smaller batch is not the last.
        ((2,), (2, 2)),  # The second batch of process 0 is missing.
        ((), (2,)),
    ],
)
def test_batches_of_different_sets_are_an_error(shares):
    def work(spread):
        rows = InOrder(spread)
        for size in shares[spread.process_index]:
            rows.add(size, np.zeros(size))
        with pytest.raises(ValueError, match="are not those of one set"):
            rows.all()

    as_processes(2, 1, 2, work)


def test_empty_chunk_is_an_error():
    with pytest.raises(ValueError, match="at least 1 example, got 0"):
        Spread(0)


def _accumulator(**options):
    spread = Spread(4, tuple(jax.devices()[:1]))
    measure = spread.map(lambda _, batch: ({"x": batch["x"]}, batch["x"]))
    return Accumulator(spread, measure, (), **options)


def test_values_are_summed_in_float64():
    accumulator = _accumulator()
    accumulator.add({"x": np.array([2.0**25, 1.0, 1.0, -(2.0**25)], np.float32)})
    assert accumulator.totals().means == {"x": 0.5}


def test_kept_examples_are_not_views_of_their_batches():
    accumulator = _accumulator(keep=2, expected=3)
    accumulator.add({"x": np.zeros((3, 2), np.float32)})
    kept = accumulator.totals().kept
    assert len(kept) == 2 and all(example["x"].base is None for example, _ in kept)


def test_unexpected_number_of_examples_is_an_error():
    with pytest.raises(ValueError, match="nothing to evaluate: no batch was added"):
        _accumulator().totals()
    accumulator = _accumulator(expected=4)
    accumulator.add({"x": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match="3 examples were measured instead of 4"):
        accumulator.totals()
