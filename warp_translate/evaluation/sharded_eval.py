"""Evaluation on several devices and processes, with results independent of their number.

Examples are measured in chunks of a fixed size, one chunk per device at a time. Every device runs
the same program, and results are ordered by example before any sum. So any number of devices of one
kind in a process gives the same bits; several processes agree up to rounding, since each compiles
the program itself.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from warp_translate.types import Array, PyTree

Batch = Mapping[str, np.ndarray]

_AXIS = "chunks"
_SHARED, _CHUNKS = PartitionSpec(), PartitionSpec(_AXIS)


@dataclasses.dataclass(frozen=True)
class Spread:
    """The devices of an evaluation and the share of each process.

    Of n processes, process p reads the batches number p, p + n, p + 2 n and so on, of `batch`
    examples each. Devices do not wait for each other; only `gather` combines the results, so shares
    may be unequal or empty.

    Attributes:
      chunk: examples per device and call.
      devices: devices of this process; every process has the same number.
      process_index: index of this process.
      process_count: number of processes.
      gather: returns the values of all processes in order; a collective call of picklable values.
    """

    chunk: int
    devices: tuple[jax.Device, ...] = dataclasses.field(
        default_factory=lambda: tuple(jax.local_devices())
    )
    process_index: int = 0
    process_count: int = 1
    gather: Callable[[Any], list[Any]] = lambda found: [found]

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ValueError(f"a chunk must hold at least 1 example, got {self.chunk}")

    @property
    def batch(self) -> int:
        """Examples per process and call."""
        return self.chunk * len(self.devices)

    def start(self, number: int) -> int:
        """Position in the whole set of the first example of this process's ``number``-th batch."""
        return (number * self.process_count + self.process_index) * self.batch

    def share(self, tree: PyTree) -> PyTree:
        """Replicates a tree over the devices, as first argument of a mapped function."""
        return jax.device_put(tree, NamedSharding(self._mesh, _SHARED))

    def map(
        self, function: Callable[[PyTree, Mapping[str, Array]], PyTree]
    ) -> Callable[[PyTree, Batch], PyTree]:
        """Compiles a function of a chunk for a whole batch.

        Args:
          function: maps a shared tree and examples, arrays ``[chunk, ...]`` by name, to a tree of
            arrays ``[chunk, ...]``. Rows must be independent.

        Returns:
          A function of the result of `share` and of up to `batch` examples, arrays ``[B, ...]`` by
          name, that returns a tree of arrays ``[batch, ...]``; rows from B on are padding. It is
          compiled once per shape of examples.
        """
        # No value is reduced over the axis, so variance over it need not be checked.
        mapped = jax.jit(
            jax.shard_map(
                function,
                mesh=self._mesh,
                in_specs=(_SHARED, _CHUNKS),
                out_specs=_CHUNKS,
                check_vma=False,
            )
        )

        def on_batch(shared: PyTree, batch: Batch) -> PyTree:
            placed = jax.device_put(self._padded(batch), NamedSharding(self._mesh, _CHUNKS))
            return mapped(shared, placed)

        return on_batch

    def chunks(self, rows: np.ndarray) -> list[np.ndarray]:
        """Splits rows into chunks; the last may be smaller."""
        return [rows[start : start + self.chunk] for start in range(0, len(rows), self.chunk)]

    @functools.cached_property
    def _mesh(self) -> Mesh:
        return Mesh(np.array(self.devices), (_AXIS,))

    def _padded(self, batch: Batch) -> dict[str, np.ndarray]:
        size = len(next(iter(batch.values())))
        if not 1 <= size <= self.batch:
            raise ValueError(
                f"a batch must hold 1 to {self.batch} examples, {self.chunk} on each of "
                f"{len(self.devices)} devices, got {size}"
            )
        # Repeats the last example, which pads alike for any number of devices.
        rows = np.minimum(np.arange(self.batch), size - 1)
        return {name: array[rows] for name, array in batch.items()}


class InOrder:
    """Collects rows of all processes in the order of the examples."""

    def __init__(self, spread: Spread) -> None:
        """Starts empty."""
        self._spread = spread
        self._parts: list[tuple[int, PyTree]] = []

    def add(self, size: int, rows: PyTree) -> None:
        """Adds the rows of this process's next batch.

        Args:
          size: number of examples, at least 1.
          rows: a tree of arrays with rows in the order of the examples.
        """
        self._parts.append((size, jax.tree.map(np.asarray, rows)))

    def all(self) -> tuple[int, PyTree]:
        """Combines the rows of all processes; all of them must call this.

        Returns:
          The number of examples and the tree of all rows, None without examples.

        Raises:
          ValueError: the batches are not those of one set, as `Spread` deals them.
        """
        everyone = self._spread.gather(self._parts)
        rounds = max(map(len, everyone))
        dealt = [
            parts[number] if number < len(parts) else None
            for number in range(rounds)
            for parts in everyone
        ]
        while dealt and dealt[-1] is None:
            dealt.pop()
        parts = [part for part in dealt if part is not None]
        sizes = [size for size, _ in parts]
        if len(parts) < len(dealt) or any(size != self._spread.batch for size in sizes[:-1]):
            raise ValueError(
                f"batches of {[part[0] if part else 0 for part in dealt]} examples are not those "
                f"of one set: only the last may have fewer than {self._spread.batch}"
            )
        if not parts:
            return 0, None
        rows = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(rows for _, rows in parts))
        return sum(sizes), rows


@dataclasses.dataclass(frozen=True)
class Totals:
    """Results of an `Accumulator`.

    Attributes:
      count: number of examples.
      means: mean of each value over the examples.
      kept: selected examples, each with its measured outputs.
    """

    count: int
    means: dict[str, float]
    kept: list[tuple[dict[str, np.ndarray], PyTree]]


class Accumulator:
    """Measures batches, keeping all values and a few examples.

    Keeps the values of every example and sums them in the order of the examples, so the result does
    not depend on the batch size.
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
        """Starts without examples.

        Args:
          spread: the devices.
          measure: maps ``shared`` and a batch to values ``[B]`` by name and a tree of outputs
            ``[B, ...]``; mapped by ``spread.map``.
          shared: its parameters, placed by ``spread.share``.
          keep: number of examples to keep, evenly spaced over the set.
          expected: number of examples in the whole set; required by ``keep``.
        """
        self._spread, self._measure, self._shared = spread, measure, shared
        self._expected = expected
        places = np.linspace(0, (expected or 1) - 1, keep).round().astype(int)
        self._wanted = sorted(set(places.tolist()))
        self._batches = 0
        self._values = InOrder(spread)
        self._kept: list[tuple[int, dict[str, np.ndarray], PyTree]] = []

    def add(self, batch: Batch) -> PyTree:
        """Measures the next batch of this process.

        Args:
          batch: arrays ``[B, ...]`` by name, with B as `Spread` deals them.

        Returns:
          The outputs, arrays ``[batch, ...]``; rows from B on are padding.
        """
        size = len(next(iter(batch.values())))
        values, made = self._measure(self._shared, batch)
        start = self._spread.start(self._batches)
        wanted = [place - start for place in self._wanted if 0 <= place - start < size]
        if wanted:
            rows = jax.tree.map(lambda array: np.asarray(array)[wanted], made)
            for number, row in enumerate(wanted):
                # A copy, since a view would keep the whole batch in memory.
                example = {name: array[row].copy() for name, array in batch.items()}
                one = jax.tree.map(lambda array, i=number: array[i], rows)
                self._kept.append((start + row, example, one))
        self._values.add(size, {name: np.asarray(value)[:size] for name, value in values.items()})
        self._batches += 1
        return made

    def totals(self) -> Totals:
        """Combines the results of all processes; all of them must call this.

        Raises:
          ValueError: there are no examples, not as many as expected, or batches are missing.
        """
        count, values = self._values.all()
        if not count:
            raise ValueError("there is nothing to evaluate: no batch was added")
        if self._expected is not None and count != self._expected:
            raise ValueError(f"{count} examples were measured instead of {self._expected}")
        kept = [one for each in self._spread.gather(self._kept) for one in each]
        kept.sort(key=lambda one: one[0])
        return Totals(
            count,
            {name: float(value.astype(np.float64).mean()) for name, value in values.items()},
            [(example, made) for _, example, made in kept],
        )
