"""What the translations in a folder were made of, so that a command that is repeated goes on.

`RECORD` in the folder has a line of JSON for each translation: its name, the maps beside it, the
image that it was made of, and what it was made by. A line is added when a translation is begun, so
that its files count as the command's own, another when it is written, and one when it is removed
because its image is now translated under a longer name. The last line of a name holds; one that
cannot be read, as a kill may leave it, is passed over.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from warp_translate.errors import UserError, shown
from warp_translate.serving.batch_translate import Job, Source, Style, map_path
from warp_translate.visualize import MAPS

RECORD = ".translated.jsonl"


def made_by(generator: str, factor: int, style: Style) -> dict[str, Any]:
    """What decides how a translation of an image comes out.

    Args:
      generator: tells it from others, by a checksum.
      factor: how many times smaller the trunk's image is.
      style: how it is written; its maps do not matter.
    """
    settings = {"quality": style.quality, "metadata": style.metadata}
    return {"generator": generator, "factor": factor, **settings}


@dataclasses.dataclass
class _Entry:
    """The last that is known of a translation; without a source it was begun only."""

    maps: list[str]
    source: Source | None = None
    by: Any = None


class OutputRecord:
    """The record of a folder; `written` may be called by several threads."""

    def __init__(self, folder: Path, by: Mapping[str, Any]) -> None:
        """Reads it, if it is there.

        Args:
          folder: where the translations go.
          by: what they are to be made by, see `made_by`.

        Raises:
          UserError: it cannot be read.
        """
        self._folder, self._by = folder, dict(by)
        self._path = folder / RECORD
        self._entries: dict[str, _Entry] = {}
        self._owners: dict[Path, str] = {}  # Which translation a file belongs to.
        self._older: set[str] = set()  # What was made of other images, or otherwise.
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            lines = []
        except OSError as error:
            raise self._unusable(error) from error
        for line in lines:
            if found := _parse(line):
                name, entry = found
                if entry is None:
                    self._forget(name)
                else:
                    self._enter(name, entry)
        # Whoever was killed may have left half a line.
        self._start = b"\n" if lines else b""

    def begin(self, jobs: Iterable[Job], maps: Sequence[str]) -> list[Job]:
        """Decides what there is to do, and makes the folders for it.

        Args:
          jobs: all that is to be in the folder in the end.
          maps: the maps that are wanted beside each translation.

        Returns:
          The jobs that are not done: their translation or one of the maps is not there, or was made
          of another image or by something else.

        Raises:
          UserError: there are files in the way that no line tells of, or the folder cannot be
            written. Nothing is changed.
        """
        jobs = list(jobs)
        left, foreign, stale = [], [], []
        for job in jobs:
            name, files = self._name(job), job.files(maps)
            entry = self._entries.get(name)
            fits = entry is not None and self._fits(entry, job)
            if fits and all(self._owners.get(each) == name and each.is_file() for each in files):
                continue
            left.append(job)
            foreign += [
                file for file in files if file not in self._owners and os.path.lexists(file)
            ]
            kept = list(maps)
            if entry is not None and fits:
                kept = list(dict.fromkeys([*maps, *entry.maps]))
            elif entry is not None:
                if entry.source is not None and files[0].exists():
                    self._older.add(name)
                stale += [
                    file
                    for file in job.files(entry.maps)
                    if file not in files and self._owners.get(file) == name
                ]
            self._enter(name, _Entry(kept))
        names = {self._name(job) for job in jobs}
        earlier = {each for job in left if (each := self._earlier_name(job)) is not None}
        renamed = earlier - names
        for name in renamed:
            stale += self._forget(name)
        if foreign:
            more = f", and {len(foreign) - 1} more are" if len(foreign) > 1 else ""
            raise UserError(
                f"{shown(foreign[0])} is there{more}, and {RECORD} beside the outputs does not say "
                "that translate has written it: choose another --output, or remove it"
            )
        try:
            for folder in dict.fromkeys(files.target.parent for files in left if files.target):
                folder.mkdir(parents=True, exist_ok=True)
            if left:
                gone = [json.dumps({"output": name, "gone": True}).encode() for name in renamed]
                lines = [self._line(self._name(job)) for job in left]
                self._append(*lines, *(line + b"\n" for line in gone))
            for file in stale:
                file.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"--output={shown(self._folder)} cannot be written ({error.strerror}): choose "
                "another folder"
            ) from error
        return left

    def written(self, job: Job, source: Source) -> None:
        """Notes that a translation is there.

        Raises:
          UserError: the record cannot be written.
        """
        entry = _Entry(self._entries[self._name(job)].maps, source, self._by)
        self._entries[self._name(job)] = entry
        try:
            self._append(self._line(self._name(job)))
        except OSError as error:
            raise self._unusable(error) from error

    @property
    def replaced(self) -> int:
        """How many translations of other images, or by other generators or settings, are gone."""
        return sum(self._entries[name].source is not None for name in self._older)

    def _name(self, job: Job) -> str:
        assert job.target is not None
        return job.target.relative_to(self._folder).as_posix()

    def _earlier_name(self, job: Job) -> str | None:
        """The name that the translation had while no other image of the folder asked for it."""
        if job.source is None or job.target is None:
            return None
        suffix = job.target.suffix
        if job.target.name != job.source.name + suffix:
            return None
        name = self._name(Job(job.source, job.target.with_name(job.source.stem + suffix)))
        entry = self._entries.get(name)
        return name if entry is not None and self._is_of(entry, job) else None

    def _fits(self, entry: _Entry, job: Job) -> bool:
        """Whether a translation was made of what the image is now, and by the same."""
        return entry.by == self._by and self._is_of(entry, job)

    @staticmethod
    def _is_of(entry: _Entry, job: Job) -> bool:
        """Whether a translation was made of what the image is now."""
        if entry.source is None or job.source is None:
            return False
        if not job.source.is_file():
            return False  # A pipe is read once.
        try:
            now = Source.of(job.source.stat(), entry.source.sha256)
            if now == entry.source:
                return True
            if now.size != entry.source.size:
                return False
            with job.source.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == entry.source.sha256
        except OSError:
            return False  # Reading it will say what is wrong.

    def _enter(self, name: str, entry: _Entry) -> None:
        self._entries[name] = entry
        target = self._folder / name
        for file in (target, *(map_path(target, each) for each in entry.maps)):
            self._owners[file] = name

    def _forget(self, name: str) -> list[Path]:
        """Drops a translation, and returns its files."""
        self._entries.pop(name, None)
        files = [file for file, owner in self._owners.items() if owner == name]
        for file in files:
            del self._owners[file]
        return files

    def _line(self, name: str) -> bytes:
        entry = self._entries[name]
        values: dict[str, Any] = {"output": name, "maps": entry.maps}
        if entry.source is not None:
            values |= {"source": dataclasses.asdict(entry.source), "by": entry.by}
        return json.dumps(values).encode() + b"\n"

    def _append(self, *lines: bytes) -> None:
        """Adds lines with one call, which others that write at the same time do not part."""
        with self._path.open("ab", buffering=0) as file:
            data = self._start + b"".join(lines)
            self._start = b""
            while data:
                data = data[file.write(data) :]

    def _unusable(self, error: OSError) -> UserError:
        return UserError(
            f"{shown(self._path)} cannot be used ({error.strerror}): choose another --output"
        )


def _parse(line: bytes) -> tuple[str, _Entry | None] | None:
    """The name in a line, and its entry or None where it is gone; None if the line is damaged."""
    try:
        found = json.loads(line)
        name = found["output"]
        Path(name).with_name("other")  # Refuses what is no name of a file.
        if found.get("gone") is True:
            return name, None
        maps = [each for each in found["maps"] if each in MAPS]
        source = Source(**found["source"]) if "source" in found else None
        return name, _Entry(maps, source, found.get("by"))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
