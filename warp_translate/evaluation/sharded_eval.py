"""Measuring on several devices and processes, whose number decides no figure.

Examples are measured in chunks of one size, a chunk at a time on a device. A device runs the same
program on the same examples however many others there are, and what it finds is put in the order of
the examples before anything is added up. So one, two and eight devices of a process give the same
bits, where they are of one kind; those of several processes give the same but for rounding, since
their program is compiled anew.
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


def _alone(found: Any) -> list[Any]:
    return [found]


@dataclasses.dataclass(frozen=True)
class Spread:
    """The devices that measure together, and which examples each process reads.

    The examples are cut into batches of `Spread.batch`, and process p of n reads the batches
    number p, p + n, p + 2 n and so on. No device waits for another while it measures: only `gather`
    brings together what the processes found, so their shares need not be equal, and a process whose
    share is empty takes part in it too.

    Attributes:
      chunk: examples that a device measures at once.
      devices: those of this process; every process has as many.
      process_index: which process this is, from 0.
      process_count: number of processes.
      gather: gives every process what each of them has, in their order; all of them must call it,
        with anything that can be pickled.
    """

    chunk: int
    devices: tuple[jax.Device, ...] = dataclasses.field(
        default_factory=lambda: tuple(jax.local_devices())
    )
    process_index: int = 0
    process_count: int = 1
    gather: Callable[[Any], list[Any]] = _alone

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ValueError(f"a chunk of {self.chunk} examples must be of at least 1")

    @property
    def batch(self) -> int:
        """Examples that the devices of a process measure at once."""
        return self.chunk * len(self.devices)

    def start(self, number: int) -> int:
        """The place in the whole set of the first example of this process's ``number``-th batch."""
        return (number * self.process_count + self.process_index) * self.batch

    def share(self, tree: PyTree) -> PyTree:
        """Gives every device of this process a copy, for the first argument of what `map` makes."""
        return jax.device_put(tree, NamedSharding(self._mesh, _SHARED))

    def map(
        self, function: Callable[[PyTree, Mapping[str, Array]], PyTree]
    ) -> Callable[[PyTree, Batch], PyTree]:
        """Compiles a function of one chunk for all of a batch.

        Args:
          function: maps what the devices share and examples, arrays ``[chunk, ...]`` by name, to a
            tree of arrays ``[chunk, ...]``. A row must not depend on the other rows.

        Returns:
          A function of what `share` placed and of at most `batch` examples, arrays ``[B, ...]`` by
          name, that gives a tree of arrays ``[batch, ...]``, of which the rows from B on are
          filling. It is compiled once for examples of one shape.
        """
        # No value is reduced over the axis, so there is no variation over it to be checked.
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
            placed = jax.device_put(self._filled(batch), NamedSharding(self._mesh, _CHUNKS))
            return mapped(shared, placed)

        return on_batch

    def chunks(self, rows: np.ndarray) -> list[np.ndarray]:
        """Cuts rows into the chunks of the devices; the last may be smaller."""
        return [rows[start : start + self.chunk] for start in range(0, len(rows), self.chunk)]

    @functools.cached_property
    def _mesh(self) -> Mesh:
        return Mesh(np.array(self.devices), (_AXIS,))

    def _filled(self, batch: Batch) -> dict[str, np.ndarray]:
        size = len(next(iter(batch.values())))
        if not 1 <= size <= self.batch:
            raise ValueError(
                f"a batch of {size} examples must be of 1 to {self.batch}, {self.chunk} on each of "
                f"{len(self.devices)} devices"
            )
        # Repeats the last example: a chunk that is cut short is filled alike on any devices.
        filling = np.minimum(np.arange(self.batch), size - 1)
        return {name: array[filling] for name, array in batch.items()}


class InOrder:
    """What the processes find of their own batches, put together in the order of the examples."""

    def __init__(self, spread: Spread) -> None:
        """Begins with nothing."""
        self._spread = spread
        self._parts: list[tuple[int, PyTree]] = []

    def add(self, size: int, rows: PyTree) -> None:
        """Takes what was found of this process's next batch.

        Args:
          size: number of examples, at least 1.
          rows: a tree of arrays, whose rows follow the order of the examples.
        """
        self._parts.append((size, jax.tree.map(np.asarray, rows)))

    def all(self) -> tuple[int, PyTree]:
        """Brings together what all processes have; all of them must call this.

        Returns:
          The number of examples and the tree of all rows; the tree is None without examples.

        Raises:
          ValueError: the batches are not the parts of one set, as `Spread` deals them.
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
