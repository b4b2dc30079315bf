import numpy as np
import pytest

from warp_translate.evaluation.accumulator import Accumulator


def _batches(*sizes):
    numbers = np.arange(sum(sizes), dtype=np.float32)
    return [{"x": part} for part in np.split(numbers, np.cumsum(sizes)[:-1])]


@pytest.mark.parametrize("sizes", [(7,), (3, 3, 1), (1, 2, 4), (2, 5)])
def test_every_example_counts_once_in_batches_of_any_sizes(sizes):
    accumulator = Accumulator(lambda batch: ({"square": batch["x"] ** 2}, batch["x"] + 100))
    for batch in _batches(*sizes):
        made = accumulator.add(batch)
        np.testing.assert_array_equal(made[: len(batch["x"])], batch["x"] + 100)
    assert accumulator.count == 7
    assert accumulator.means() == pytest.approx({"square": 13})


def test_a_smaller_last_batch_is_not_compiled_for_itself():
    shapes = []
    accumulator = Accumulator(lambda batch: ({}, shapes.append(batch["x"].shape)))
    for batch in _batches(3, 3, 2):
        accumulator.add(batch)
    assert shapes == [(3,)]


@pytest.mark.parametrize("sizes", [(9,), (5, 2, 2)])
def test_the_kept_examples_are_spread_over_the_set(sizes):
    accumulator = Accumulator(lambda batch: ({}, {"y": -batch["x"]}), keep=3, expected=9)
    for batch in _batches(*sizes):
        accumulator.add(batch)
    assert [(example["x"], made["y"]) for example, made in accumulator.kept] == [
        (0, 0),
        (4, -4),
        (8, -8),
    ]


def test_the_mean_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="nothing to evaluate: no batch came"):
        Accumulator(lambda batch: ({}, None)).means()
