import jax
import numpy as np
import pytest

from warp_translate.evaluation.accumulator import Accumulator
from warp_translate.evaluation.sharded_eval import Spread


def _batches(*sizes):
    numbers = np.arange(sum(sizes), dtype=np.float32)
    return [{"x": part} for part in np.split(numbers, np.cumsum(sizes)[:-1])]


def _accumulator(measure, devices=1, chunk=3, **options):
    spread = Spread(chunk, tuple(jax.devices()[:devices]))
    return Accumulator(spread, spread.map(measure), spread.share(np.float32(100)), **options)


@pytest.mark.parametrize(
    ("devices", "chunk", "sizes"), [(1, 3, (3, 3, 1)), (2, 2, (4, 3)), (8, 1, (7,))]
)
def test_every_example_counts_once(devices, chunk, sizes):
    accumulator = _accumulator(
        lambda shared, batch: ({"square": batch["x"] ** 2}, batch["x"] + shared), devices, chunk
    )
    for batch in _batches(*sizes):
        made = accumulator.add(batch)
        np.testing.assert_array_equal(made[: len(batch["x"])], batch["x"] + 100)
    totals = accumulator.totals()
    assert totals.count == 7
    assert totals.means == pytest.approx({"square": 13})


def test_a_smaller_last_batch_is_not_compiled_for_itself():
    shapes = []
    accumulator = _accumulator(lambda _, batch: ({}, shapes.append(batch["x"].shape)))
    for batch in _batches(3, 3, 2):
        accumulator.add(batch)
    assert shapes == [(3,)]


def test_values_are_added_up_in_float64():
    values = np.array([2.0**25, 1.0, 1.0, -(2.0**25)], np.float32)
    accumulator = _accumulator(lambda _, batch: ({"x": batch["x"]}, None), chunk=4)
    accumulator.add({"x": values})
    assert accumulator.totals().means == {"x": 0.5}


@pytest.mark.parametrize(("devices", "chunk", "sizes"), [(1, 9, (9,)), (2, 2, (4, 4, 1))])
def test_the_kept_examples_are_spread_over_the_set(devices, chunk, sizes):
    accumulator = _accumulator(
        lambda _, batch: ({"x": batch["x"][:, 0]}, {"y": -batch["x"]}),
        devices,
        chunk,
        keep=3,
        expected=9,
    )
    for batch in _batches(*sizes):
        accumulator.add({"x": batch["x"][:, None]})
    kept = accumulator.totals().kept
    assert [(*example["x"], *made["y"]) for example, made in kept] == [(0, 0), (4, -4), (8, -8)]
    # No view of a batch, which would keep the whole batch in memory.
    assert all(example["x"].base is None for example, _ in kept)


def test_the_mean_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="nothing to evaluate: no batch came"):
        _accumulator(lambda _, batch: ({}, None)).totals()


def test_another_number_of_examples_than_was_expected_is_an_error():
    accumulator = _accumulator(lambda _, batch: ({"x": batch["x"]}, None), expected=4)
    accumulator.add({"x": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match="3 examples were measured instead of 4"):
        accumulator.totals()
