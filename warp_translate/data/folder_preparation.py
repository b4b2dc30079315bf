"""Prepares users' own folders on all cores, shard by shard, so that it goes on where it was cut."""

import collections
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from absl import logging
from array_record.python import array_record_module

from warp_translate.cpu_count import allowed_cores
from warp_translate.data import unfinished
from warp_translate.data.folder_builder import FolderBuilder
from warp_translate.data.preparation import (
    FILE_FORMAT,
    is_prepared,
    quiet,
    write_checksums,
)
from warp_translate.data.shards import Shard, plan, template
from warp_translate.data.unfinished import Unfinished
from warp_translate.errors import UserError
from warp_translate.progress import Progress

_AHEAD = 4  # Examples per thread that are made or being made and not written.
_NAMED = 5  # Of the files that cannot be used.
_PATIENCE = 30.0  # Seconds without a byte after which a shard of another process is made here.
_POLL = 0.2


def prepare_folder(
    build: Callable[[], FolderBuilder[Any]],
    name: str,
    remedy: str,
    *,
    workers: int | None = None,
) -> tfds.core.DatasetBuilder:
    """Prepares a set of a user's own files unless that was done before.

    The order and the bytes of the examples are those of TFDS's own preparation. Cut short by
    whatever, it goes on with the shards that are whole; of a folder that has changed since with
    those that are still the same. Several processes that prepare one set share its shards, each
    makes what no other is making, and the first to see all of them names the set. Memory holds a
    few examples for each thread. Pillow and OpenCV let other threads run while they work, and what
    is left to Python of an example takes half a millisecond. How far it is stderr tells.

    Args:
      build: makes the builder; called again to see what another process has done.
      name: what messages call the set.
      remedy: what an error says to do about files that cannot be used.
      workers: threads; one for each core that this process may use by default.

    Returns:
      The builder, prepared.

    Raises:
      UserError: files cannot be used, of which all are gone through, or the folder cannot be
        written.
    """
    with quiet():
        builder = build()
        if is_prepared(builder):
            return builder
    logging.info("preparing %s in %s", name, builder.data_dir)
    again = True
    while True:
        try:
            _Preparation(builder, workers or allowed_cores()).run(remedy)
            break
        except OSError as error:
            with quiet():
                overtaken = is_prepared(build())
            # Where another process was faster its result serves as well.
            if overtaken:
                break
            # One that could not go on may have cleared the folder away.
            if isinstance(error, FileNotFoundError) and again:
                again = False
                continue
            reason = error.strerror or " ".join(str(error).split())
            raise UserError(
                f"{name} cannot be prepared in {builder.data_dir} ({reason}); choose a data "
                "folder that can be written and has space; the same command goes on from what is "
                "prepared"
            ) from error
    # Opened afresh, because a builder that was overtaken knows nothing of the result.
    with quiet():
        return build()


def remedy_by_list(root: str | os.PathLike[str], name: str) -> str:
    """What to do about files of a folder or list that cannot be used.

    Args:
      root: the folder or list.
      name: of the data set.
    """
    words = ("warp-translate", "data", f"--root={root}", f"--data_name={name}", "--list=FILE.csv")
    return f"mend or remove them, or train on a list without them, which {shlex.join(words)} writes"


class _Preparation:
    """One go at a set."""

    def __init__(self, builder: FolderBuilder[Any], workers: int) -> None:
        self._builder, self._workers = builder, workers
        self._data_dir = Path(builder.data_dir)
        self._features = builder.info.features
        self._writer = tfds.core.ExampleWriter(tfds.core.FileFormat(FILE_FORMAT))
        self._items = builder.items()
        self._shards = plan(builder)
        self._total = sum(map(len, self._shards))
        self._progress = Progress(self._total, stream=_print, verb="prepared", noun=builder.noun)
        self._counted: set[str] = set()  # Shards that count as done, by name.
        self._begun: dict[str, Path] = {}  # Those of this process, spoilt ones as well.
        # Sizes of what others write, and since when they are so, by shard and owner.
        self._watched: dict[tuple[str, str], tuple[int, float]] = {}
        self._look_at = 0.0  # When to see again what the others have done.
        self._problems: list[str] = []
        self._unusable = 0

    def run(self, remedy: str) -> None:
        """Makes what is missing, and the set of it."""
        with unfinished.opened(self._data_dir, self._shards) as work:
            work.take_over()
            pool = ThreadPoolExecutor(self._workers, "preparation")
            try:
                self._make(work, pool)
            finally:
                pool.shutdown(cancel_futures=True)
            if self._unusable:
                raise UserError(self._complaint(remedy))
            work.finish(lambda folder: self._write_metadata(work, folder))

    def _make(self, work: Unfinished, pool: ThreadPoolExecutor) -> None:
        """Makes and writes shards until all are whole or spoilt."""
        ahead: collections.deque[tuple[Shard, Future[bytes]]] = collections.deque()
        tasks = self._tasks(work)

        def fill() -> None:
            while len(ahead) < _AHEAD * self._workers and (task := next(tasks)):
                shard, item = task
                ahead.append((shard, pool.submit(self._encode, item)))

        def of(shard: Shard) -> Iterator[Future[bytes]]:
            while ahead and ahead[0][0] is shard:
                yield ahead.popleft()[1]
                fill()

        while True:
            fill()
            if ahead:
                shard = ahead[0][0]
                self._write(work, shard, of(shard))
            elif all(shard.name in self._counted for shard in self._shards):
                return
            else:
                time.sleep(_POLL)  # Others are making what is left.

    def _tasks(self, work: Unfinished) -> Iterator[tuple[Shard, Any] | None]:
        """What there is to do, shard after shard; None where there is nothing at the moment."""
        while True:
            shard = self._begin_next(work)
            if shard is None:
                yield None
                continue
            for item in self._items[shard.split][shard.start : shard.stop]:
                yield shard, item

    def _begin_next(self, work: Unfinished) -> Shard | None:
        """Begins a shard that nobody makes; None where there is none at the moment."""
        if (now := time.monotonic()) < self._look_at:
            return None
        if self._data_dir.exists():
            raise FileExistsError("another process was faster")
        whole = work.whole()
        missing, new = [], 0
        for shard in self._shards:
            if shard.name in self._counted or shard.name in self._begun:
                continue
            if shard.name in whole:
                self._counted.add(shard.name)
                new += len(shard)
            else:
                missing.append(shard)
        # At once: what was there at the beginning is no measure of the speed.
        self._progress.advance(new)
        being_made = self._being_made(work, now) if missing else {}
        for shard in missing:
            if shard.name in being_made:
                continue
            part = work.begin(shard)
            # Of two that begin at the same moment each sees the other, and one of them goes on.
            if self._being_made(work, now).get(shard.name, work.owner) < work.owner:
                part.unlink(missing_ok=True)
                continue
            self._begun[shard.name] = part
            return shard
        self._look_at = now + _POLL
        return None

    def _being_made(self, work: Unfinished, now: float) -> dict[str, str]:
        """The shards of which another process writes more and more, and one that does."""
        found: dict[str, str] = {}
        for (shard, owner), size in work.others().items():
            before, since = self._watched.get((shard, owner), (-1, now))
            if size != before:
                since = now
                self._watched[shard, owner] = (size, now)
            if now - since < _PATIENCE:
                found[shard] = min(owner, found.get(shard, owner))
        return found

    def _encode(self, item: Any) -> bytes:
        data: bytes = self._features.serialize_example(self._builder.encode(item))
        return data

    def _write(self, work: Unfinished, shard: Shard, futures: Iterator[Future[bytes]]) -> None:
        """Writes a shard, unless some of its files cannot be used: then it goes through them."""
        bytes_, spoilt = 0, 0
        failure: Exception | None = None

        def examples() -> Iterator[tuple[int, bytes]]:
            nonlocal bytes_, spoilt, failure
            for number, future in enumerate(futures):
                try:
                    data = future.result()
                except UserError as error:
                    spoilt += 1
                    if len(self._problems) < _NAMED:
                        self._problems.append(str(error))
                except Exception as error:  # Raised below: the writer's own errors mean the disk.
                    failure = error
                    return
                else:
                    if not spoilt:
                        bytes_ += len(data)
                        yield number, data
                self._progress.advance(1)

        part = self._begun[shard.name]
        try:
            self._writer.write(part, examples())
        except RuntimeError as error:  # So array_record says that it cannot write.
            raise OSError(str(error).partition("; ")[0]) from error
        if failure:
            raise failure
        self._counted.add(shard.name)
        self._unusable += spoilt
        if spoilt:
            part.unlink(missing_ok=True)
            return
        written = array_record_module.ArrayRecordReader(os.fspath(part)).num_records()
        if written != len(shard):
            raise OSError(f"of {len(shard)} examples {written} were written")
        work.keep(shard, part, bytes_)

    def _complaint(self, remedy: str) -> str:
        # Each says what to do about it, which is said once for all.
        named = [problem.rpartition("; ")[0] or problem for problem in self._problems]
        if self._unusable > len(named):
            named.append(f"and {self._unusable - len(named)} more")
        return (
            f"{self._unusable} of the {self._total} {self._builder.noun} of "
            f"{self._builder.builder_config.layout.root} cannot be used: {'; '.join(named)}: "
            f"{remedy}; the others are prepared and kept"
        )

    def _write_metadata(self, work: Unfinished, folder: Path) -> None:
        """TFDS's own account of the set."""
        records = work.whole()
        splits = []
        for split in self._items:
            mine = [records[shard.name] for shard in self._shards if shard.split == split]
            splits.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[record.examples for record in mine],
                    num_bytes=sum(record.bytes for record in mine),
                    filename_template=template(self._builder, split),
                )
            )
        with quiet():
            info = self._builder.info
            info.set_splits(tfds.core.SplitDict(splits))
            info.download_size = 0
            info.write_to_directory(folder)
        write_checksums(folder)


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
