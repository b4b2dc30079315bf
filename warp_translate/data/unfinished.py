"""The folder of a data set that is being prepared, which several processes may work in at once.

Beside the place of the set itself there is, while it is prepared,

    unfinished/VERSION/            the whole shards under their names: what the set will be
    unfinished/SHARD.json          for each of these: its key, how many examples and bytes it holds
    unfinished/SHARD.OWNER.part    a shard that a process is writing
    unfinished/OWNER.owner         is locked as long as that process lives

Everything gets its name when it is whole, so nothing is lost but what was being written when a
process or the machine died. No process waits for a lock, and two that make the same shard make the
same bytes.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from warp_translate import owner as owners
from warp_translate.data.shards import Shard

_NAME = "unfinished"


@dataclass(frozen=True)
class Record:
    """What is known of a whole shard.

    Attributes:
      key: see `shards.Shard`.
      examples: how many it holds.
      bytes: of all of them.
      file_bytes: of the file.
    """

    key: str
    examples: int
    bytes: int
    file_bytes: int


class Unfinished:
    """What is there of a set; made by `opened`.

    Attributes:
      owner: the name of this process here.
    """

    def __init__(self, data_dir: Path, shards: Sequence[Shard], owner: str) -> None:
        """Looks at nothing yet.

        Args:
          data_dir: where the set will be.
          shards: all of it.
          owner: the name of this process here.
        """
        self.owner = owner
        self._data_dir, self._shards = data_dir, shards
        self._folder = data_dir.parent / _NAME
        self._set = self._folder / data_dir.name
        self._whole: dict[str, Record] = {}
        self._superseded: set[Path] = set()

    def whole(self) -> dict[str, Record]:
        """The shards that are there, whoever made them, by name."""
        there = set(os.listdir(self._folder))
        for shard in self._shards:
            if shard.name not in self._whole and f"{shard.name}.json" in there:
                record = _read(self._folder / f"{shard.name}.json")
                if record is None or (record.key, record.examples) != (shard.key, len(shard)):
                    continue
                if self._holds(shard.name, record):
                    self._whole[shard.name] = record
        return self._whole

    def others(self) -> dict[tuple[str, str], int]:
        """How far living processes are: bytes that are written, by shard and owner.

        What the dead have left is removed.
        """
        found: dict[tuple[str, str], int] = {}
        alive: dict[str, bool] = {}
        for name in os.listdir(self._folder):
            shard, _, owner = name.removesuffix(".part").rpartition(".")
            if not name.endswith(".part") or owner == self.owner:
                continue
            path = self._folder / name
            if owner not in alive:
                alive[owner] = owners.is_alive(self._folder / f"{owner}.owner")
            with contextlib.suppress(FileNotFoundError):  # It is whole just now.
                if alive[owner]:
                    found[shard, owner] = path.stat().st_size
                else:
                    path.unlink()
        for owner, lives in alive.items():
            if not lives:
                (self._folder / f"{owner}.owner").unlink(missing_ok=True)
        return found

    def begin(self, shard: Shard) -> Path:
        """Says that this process makes a shard; returns the file to write it to."""
        part = self._part(shard.name)
        part.touch()
        return part

    def keep(self, shard: Shard, part: Path, bytes_: int) -> None:
        """Takes a shard that is written.

        Args:
          shard: which.
          part: the file, from `begin`.
          bytes_: of all its examples.
        """
        _sync(part)
        record = Record(shard.key, len(shard), bytes_, part.stat().st_size)
        part.replace(self._set / shard.name)
        self._note(shard, record)

    def take_over(self) -> None:
        """Takes the shards that an earlier state of the folder left and that are still the same."""
        missing = {shard.key: shard for shard in self._shards if shard.name not in self.whole()}
        for folder in self._data_dir.parent.parent.glob(f"*/{_NAME}"):
            if folder == self._folder:
                continue
            for path in folder.glob("*.json"):
                record = _read(path)
                if record is None or record.key not in missing:
                    continue
                shard = missing[record.key]
                with contextlib.suppress(FileNotFoundError):  # Another process cleared it away.
                    part = self._part(shard.name)
                    _copy(folder / self._set.name / path.stem, part)
                    if part.stat().st_size == record.file_bytes:
                        self.keep(shard, part, record.bytes)
                        del missing[record.key]
                        self._superseded.add(folder)

    def finish(self, write_metadata: Callable[[Path], None]) -> None:
        """Makes the whole shards a set.

        Args:
          write_metadata: writes TFDS's own files into a folder.

        Raises:
          OSError: it cannot be written, or another process was faster.
        """
        known = {shard.name for shard in self._shards}
        with tempfile.TemporaryDirectory(dir=self._folder, ignore_cleanup_errors=True) as beside:
            write_metadata(Path(beside))
            for path in Path(beside).iterdir():
                _sync(path)
                known.add(path.name)
                path.replace(self._set / path.name)
        for name in os.listdir(self._set):
            if name not in known:  # Of another release, which parts otherwise.
                (self._set / name).unlink(missing_ok=True)
        _sync(self._set)
        self._set.rename(self._data_dir)
        _sync(self._data_dir.parent)
        shutil.rmtree(self._folder, ignore_errors=True)
        for folder in self._superseded:
            if not any(map(owners.is_alive, folder.glob("*.owner"))):
                shutil.rmtree(folder, ignore_errors=True)
                _remove_if_empty(folder.parent)

    def leave(self) -> None:
        """Removes what this process was writing, and the folders where nothing is left in them."""
        for path in self._folder.glob(f"*.{self.owner}.part"):
            path.unlink(missing_ok=True)
        (self._folder / f"{self.owner}.owner").unlink(missing_ok=True)
        for folder in (self._set, self._folder, self._data_dir.parent):
            _remove_if_empty(folder)

    def _part(self, name: str) -> Path:
        return self._folder / f"{name}.{self.owner}.part"

    def _holds(self, name: str, record: Record) -> bool:
        try:
            return (self._set / name).stat().st_size == record.file_bytes
        except FileNotFoundError:
            return False

    def _note(self, shard: Shard, record: Record) -> None:
        path = self._folder / f"{shard.name}.json"
        partial = self._part(path.name)
        partial.write_text(json.dumps(asdict(record)))
        _sync(partial)
        partial.replace(path)
        self._whole[shard.name] = record


@contextlib.contextmanager
def opened(data_dir: Path, shards: Sequence[Shard]) -> Iterator[Unfinished]:
    """Works on a set that is not there yet.

    Args:
      data_dir: where it will be.
      shards: all of it.

    Yields:
      What is there of it.

    Raises:
      OSError: the folder cannot be written.
    """
    folder = data_dir.parent / _NAME
    (folder / data_dir.name).mkdir(parents=True, exist_ok=True)
    with owners.held(folder) as path:
        work = Unfinished(data_dir, shards, path.stem)
        try:
            yield work
        finally:
            work.leave()


def _read(path: Path) -> Record | None:
    try:
        return Record(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)  # Neither is ever written again.
    except FileNotFoundError:
        raise
    except OSError:  # A file system without links.
        shutil.copyfile(source, target)


def _sync(path: Path) -> None:
    """Waits until a file or a folder is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError:
        if not path.is_dir():  # For which some file systems have no such thing.
            raise
    finally:
        os.close(number)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
