"""Means over the examples of a data set, one batch in memory at a time."""

from collections.abc import Callable, Mapping

import jax
import numpy as np

from warp_translate.types import Array, PyTree

Batch = Mapping[str, np.ndarray]


class Accumulator:
    """Measures batches, adds the values up, and keeps a few examples.

    Attributes:
      count: number of examples so far.
      kept: the examples that were asked for so far: of the batch, and of what was made of it.
    """

    count: int
    kept: list[tuple[dict[str, np.ndarray], PyTree]]

    def __init__(
        self,
        measure: Callable[[Mapping[str, Array]], tuple[dict[str, Array], PyTree]],
        *,
        keep: int = 0,
        expected: int | None = None,
    ) -> None:
        """Compiles the measure.

        Args:
          measure: maps a batch, arrays ``[B, ...]`` by name, to values ``[B]`` by name and to what
            it made of the examples, a tree of ``[B, ...]``.
          keep: how many examples to keep, spread evenly over the set.
          expected: number of examples of all batches, which ``keep`` needs to spread them.
        """
        self.count, self.kept = 0, []
        self._measure = jax.jit(measure)
        places = np.linspace(0, (expected or 1) - 1, keep).round().astype(int)
        self._wanted = frozenset(places.tolist())
        self._sums: dict[str, float] = {}
        self._full_size = 0

    def add(self, batch: Batch) -> PyTree:
        """Measures a batch; its size may be smaller than that of the batches before.

        Args:
          batch: arrays ``[B, ...]`` by name, B at least 1.

        Returns:
          What the measure made of it, ``[at least B, ...]``: the rows beyond B are filling.
        """
        size = len(next(iter(batch.values())))
        self._full_size = max(self._full_size, size)
        # A last batch of another size would be compiled for itself; it is filled up instead.
        filling = np.minimum(np.arange(self._full_size), size - 1)
        values, made = self._measure({name: array[filling] for name, array in batch.items()})
        for name, value in values.items():
            total = float(np.asarray(value, np.float64)[:size].sum())
            self._sums[name] = self._sums.get(name, 0.0) + total
        for index in range(size):
            if self.count + index in self._wanted:
                example = {name: array[index] for name, array in batch.items()}
                one = jax.tree.map(lambda array, i=index: np.asarray(array[i]), made)
                self.kept.append((example, one))
        self.count += size
        return made

    def means(self) -> dict[str, float]:
        """The mean of every value over the examples.

        Raises:
          ValueError: there was no example.
        """
        if not self.count:
            raise ValueError("there is nothing to evaluate: no batch came")
        return {name: total / self.count for name, total in self._sums.items()}
