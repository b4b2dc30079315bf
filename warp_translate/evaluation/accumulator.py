"""Means over the examples of a data set, one batch in memory at a time."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import numpy as np

from warp_translate.evaluation.sharded_eval import Batch, InOrder, Spread
from warp_translate.types import Array, PyTree

Measure = Callable[[PyTree, Mapping[str, Array]], tuple[dict[str, Array], PyTree]]
"""Maps parameters and a batch, arrays ``[B, ...]`` by name, to values ``[B]`` by name and to what
it made of the examples, a tree of arrays ``[B, ...]``."""


@dataclasses.dataclass(frozen=True)
class Totals:
    """What was found of all examples.

    Attributes:
      count: number of examples.
      means: of every value over the examples.
      kept: the examples that were asked for: of the batch, and of what was made of it.
    """

    count: int
    means: dict[str, float]
    kept: list[tuple[dict[str, np.ndarray], PyTree]]


class Accumulator:
    """Measures batches, keeps the values and a few examples.

    Every value of every example is kept, some bytes each, and added up at the end in the order of
    the examples: a running sum would depend on how they are split.
    """

    def __init__(
        self,
        spread: Spread,
        measure: Callable[[PyTree, Batch], tuple[dict[str, Array], PyTree]],
        shared: PyTree,
        *,
        keep: int = 0,
        expected: int | None = None,
    ) -> None:
        """Begins with no example.

        Args:
          spread: the devices.
          measure: a `Measure` that ``spread.map`` has mapped.
          shared: its parameters, placed by ``spread.share``.
          keep: how many examples to keep, spread evenly over the set.
          expected: number of examples in the whole set, which ``keep`` needs to spread them.
        """
        self._spread, self._measure, self._shared = spread, measure, shared
        self._expected = expected
        places = np.linspace(0, (expected or 1) - 1, keep).round().astype(int)
        self._wanted = frozenset(places.tolist())
        self._batches = 0
        self._values = InOrder(spread)
        self._kept: list[tuple[int, dict[str, np.ndarray], PyTree]] = []

    def add(self, batch: Batch) -> PyTree:
        """Measures this process's next batch.

        Args:
          batch: arrays ``[B, ...]`` by name, B as `Spread` deals them.

        Returns:
          What the measure made of it, arrays ``[at least B, ...]`` of the devices: the rows beyond
          B are filling.
        """
        size = len(next(iter(batch.values())))
        values, made = self._measure(self._shared, batch)
        start = self._spread.start(self._batches)
        wanted = [place - start for place in sorted(self._wanted) if 0 <= place - start < size]
        if wanted:
            rows = jax.tree.map(lambda array: np.asarray(array)[wanted], made)
            for number, row in enumerate(wanted):
                # A view would keep the whole batch in memory.
                example = {name: array[row].copy() for name, array in batch.items()}
                one = jax.tree.map(lambda array, i=number: array[i], rows)
                self._kept.append((start + row, example, one))
        self._values.add(size, {name: np.asarray(value)[:size] for name, value in values.items()})
        self._batches += 1
        return made

    def totals(self) -> Totals:
        """Adds up what all processes found; all of them must call this.

        Raises:
          ValueError: there was no example, another number than was expected, or one was measured
            twice or left out.
        """
        count, values = self._values.all()
        if not count:
            raise ValueError("there is nothing to evaluate: no batch came")
        if self._expected is not None and count != self._expected:
            raise ValueError(f"{count} examples were measured instead of {self._expected}")
        kept = [one for each in self._spread.gather(self._kept) for one in each]
        kept.sort(key=lambda one: one[0])
        return Totals(
            count,
            {name: float(value.astype(np.float64).mean()) for name, value in values.items()},
            [(example, made) for _, example, made in kept],
        )
