"""Batches of pairs and of images for training and evaluation, read by grain on threads.

Training batch k depends on the seed and k only: a run that resumes at step k, or on another number
of processes, sees the same global batches.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from warp_translate.data.records import ImageSource, Pair, PairSource
from warp_translate.errors import UserError

Augment = Callable[[Mapping[str, np.ndarray], np.random.Generator], Mapping[str, np.ndarray]]
"""Brings the images of an example to one size at random; see `augment.JointAugment`."""

Crop = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""Brings the images of an example to one size deterministically; see `augment.EvalCrop`."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How one process reads its part of the training batches.

    Process p reads the p-th contiguous part of each global batch.

    Attributes:
      global_batch: examples of a batch over all processes.
      seed: any integer from 0.
      start_step: number of the first batch, equal to the number of batches already consumed.
      process_index: this process, 0 to process_count - 1.
      process_count: number of processes.
      num_threads: threads that read, decode and augment whole batches.
      prefetch: most local batches held ready in memory.

    Raises:
      UserError: ``process_count`` does not divide ``global_batch``.
      ValueError: another value is out of range.
    """

    global_batch: int
    seed: int
    start_step: int
    process_index: int = 0
    process_count: int = 1
    num_threads: int = 8
    prefetch: int = 8

    def __post_init__(self) -> None:
        if self.global_batch < 1 or self.global_batch % self.process_count:
            raise UserError(
                f"batch size {self.global_batch} must be a positive multiple of the "
                f"{self.process_count} processes; change it"
            )
        _check(self.process_index, self.process_count, self.num_threads, self.prefetch)
        if self.seed < 0 or self.start_step < 0:
            raise ValueError(
                f"seed {self.seed} and start_step {self.start_step} must not be negative"
            )


def train_batches(source: PairSource, augment: Augment, **reading: int) -> Iterator[Pair]:
    """Yields this process's part of the training batches, without end.

    Each epoch has its own order and augmentations. Batches run across the ends of epochs, so a set
    may be smaller than a batch.

    Args:
      source: the pairs.
      augment: called on every pair.
      **reading: see `Reading`.

    Returns:
      Iterator over pairs of uint8 [global_batch / process_count, H, W, 3]; closing or dropping it
      stops its threads.

    Raises:
      UserError, ValueError: an empty source, or see `Reading`.
    """
    how = Reading(**reading)
    return _parts(_endless(source, augment, np.random.SeedSequence(how.seed)), how)


def unpaired_batches(
    source_a: ImageSource, source_b: ImageSource, augment: Augment, **reading: int
) -> Iterator[Pair]:
    """Yields training batches of two domains as `train_batches` does.

    The orders and augmentations of a domain do not depend on the other one: the sets may differ in
    size, and the combinations change from epoch to epoch.

    ``augment`` is called on every image, an example of one ``image``.

    Returns:
      Iterator over uint8 [global_batch / process_count, H, W, 3]: unrelated "source" of the first
      and "target" of the second domain.
    """
    how = Reading(**reading)
    examples = _endless_domains((source_a, source_b), augment, how.seed).map(
        lambda both: {"source": both[0]["image"], "target": both[1]["image"]}
    )
    return _parts(examples, how)


def labelled_batches(
    sources: Sequence[ImageSource], augment: Augment, **reading: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yields training batches of a classifier as `unpaired_batches` does.

    An example is one image of each domain, so domains are balanced whatever their sizes.

    Returns:
      Iterator over {"images": uint8 [global_batch / process_count, domains, H, W, 3]}.
    """
    how = Reading(**reading)
    examples = _endless_domains(sources, augment, how.seed).map(
        lambda each: {"images": np.stack([example["image"] for example in each])}
    )
    return _parts(examples, how)


def eval_batches(
    source: PairSource,
    crop: Crop,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    limit: int | None = None,
    num_threads: int = 8,
    prefetch: int = 8,
) -> Iterator[Pair]:
    """Yields this process's part of all pairs; each pair goes to one process, once and in order.

    Process p of n reads the batches p, p + n, p + 2 n ...; of a small set it may have none.

    Args:
      source: the pairs.
      crop: called on every pair.
      batch_size: examples of a batch; the last one may be smaller.
      process_index: as the rest, see `Reading`.
      process_count: see there.
      limit: reads the first ``limit`` pairs only; None for all.
      num_threads: see there.
      prefetch: see there.

    Returns:
      Iterator over pairs of uint8 [<= batch_size, H, W, 3].

    Raises:
      UserError: an empty source, or batch_size or limit below 1.
      ValueError: another value is out of range.
    """
    if batch_size < 1:
        raise UserError(f"evaluation batch size {batch_size} must be at least 1; change it")
    if limit is not None and limit < 1:
        raise UserError(f"evaluation limit {limit} must be at least 1; change it or leave it out")
    _check(process_index, process_count, num_threads, prefetch)
    batches = _dataset(source)[:limit].map(crop).batch(batch_size)
    return _read(batches[process_index::process_count], 0, num_threads, prefetch)


def eval_images(source: ImageSource, crop: Crop, **options: Any) -> Iterator[dict[str, np.ndarray]]:
    """Yields {"image": uint8 [<= batch_size, H, W, 3]}, otherwise as `eval_batches`."""
    examples: Any = _ImageExamples(source)
    batches: Any = eval_batches(examples, crop, **options)
    return batches


class _ImageExamples:
    """Wraps each image in an example, for the augmentations."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"image": self._source[index]}


def _endless(
    source: PairSource | _ImageExamples, augment: Augment, seed: np.random.SeedSequence
) -> grain.MapDataset:
    """Shuffles, repeats and augments the examples of a set."""
    # grain orders epoch e of seed s like epoch 0 of seed s + e; hashing keeps the orders of
    # neighboring seeds apart. The second seed keeps augmentation independent of the order.
    order_seed, augment_seed = (int(word) for word in seed.generate_state(2))
    examples = _dataset(source).shuffle(seed=order_seed).repeat()
    return examples.random_map(augment, seed=augment_seed)


def _endless_domains(
    sources: Sequence[ImageSource], augment: Augment, seed: int
) -> grain.MapDataset:
    """Tuples of one example of each domain, in independent orders."""
    seeds = np.random.SeedSequence(seed).spawn(len(sources))
    return grain.experimental.ZipMapDataset(
        [
            _endless(_ImageExamples(source), augment, its_seed)
            for source, its_seed in zip(sources, seeds, strict=True)
        ]
    )


def _parts(examples: grain.MapDataset, how: Reading) -> Iterator[Any]:
    """Batches one process's part of endless examples."""
    # Batching before slicing lets a process decode its own examples only. Without drop_remainder
    # grain rounds the length of parts of one example up to 2**63, which Python cannot hold.
    parts = examples.batch(how.global_batch // how.process_count, drop_remainder=True)
    parts = parts[how.process_index :: how.process_count]
    return _read(parts, how.start_step, how.num_threads, how.prefetch)


def _check(process_index: int, process_count: int, num_threads: int, prefetch: int) -> None:
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} is not within 0 to {process_count - 1}")
    if num_threads < 1 or prefetch < 1:
        raise ValueError(f"num_threads {num_threads} and prefetch {prefetch} must be at least 1")


def _dataset(source: PairSource | _ImageExamples) -> grain.MapDataset:
    if not len(source):
        raise UserError("the data set is empty; choose another set or split")
    return grain.MapDataset.source(source)


def _read(batches: grain.MapDataset, start: int, num_threads: int, prefetch: int) -> Iterator[Any]:
    """Reads batches from number ``start``.

    Uses threads instead of grain's worker processes: decoding and warping release the GIL, and
    spawned processes would need parsed flags and a guarded ``__main__``.
    """
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
    iterator = iter(batches.to_iter_dataset(options))
    iterator.set_state({"next_index": start})
    try:
        yield from iterator
    finally:
        iterator.close()
