"""Checkpoints in buckets: which are complete, and copies of those that Orbax cannot read or write.

Orbax reads and writes ``gs://`` by itself, but no ``s3://``; there it works on a folder on a disk.
"""

import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from warp_translate import storage
from warp_translate.errors import UserError

# In the folder of a step as long as all the rest is there: Orbax writes the first at the end of a
# save, and the second anywhere; here it goes into the bucket last.
_MARKS = {"gs": "commit_success.txt", "s3": "_CHECKPOINT_METADATA"}
_ARRAYS = "default/"


def steps(folder: Path) -> dict[int, list[str]]:
    """The complete steps of a folder in a bucket, with their files.

    Raises:
      UserError: it cannot be listed.
    """
    mark = _MARKS[str(storage.scheme(folder))]
    found: dict[str, list[str]] = {}
    try:
        for path in storage.files_below(folder):
            step, _, name = path.partition("/")
            found.setdefault(step, []).append(name)
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): try again") from error
    return {int(step): names for step, names in found.items() if step.isdigit() and mark in names}


def remove(folder: Path, step: int | str) -> None:
    """Deletes a step in a bucket, at once for all readers; nothing happens where it is missing.

    Raises:
      OSError: it cannot be deleted.
    """
    storage.remove(folder / str(step), first=(_MARKS[str(storage.scheme(folder))],))


class StepMirror:
    """The steps of a folder in a bucket, and a folder on the disk that is like it.

    Attributes:
      local: the folder on the disk.
    """

    local: Path

    def __init__(self, folder: Path) -> None:
        """Makes the folder on the disk.

        Args:
          folder: in the bucket, with a folder for each step, called by its number.
        """
        self.local = storage.scratch()
        self._folder = folder
        self._background = ThreadPoolExecutor(1)

    def fetch_steps(self) -> None:
        """Brings the steps of the disk to those of the bucket, without their arrays.

        Raises:
          UserError: the bucket cannot be read.
        """
        there = steps(self._folder)
        for step in self._local_steps() - there.keys():
            shutil.rmtree(self.local / str(step))
        for step in there.keys() - self._local_steps():
            self._fetch(step, [name for name in there[step] if not name.startswith(_ARRAYS)])

    def fetch_arrays(self, step: int) -> None:
        """Brings what `fetch_steps` left out of a step.

        Raises:
          UserError: the step is no longer there, or cannot be read.
        """
        here = storage.files_below(self.local / str(step))
        self._fetch(step, [name for name in steps(self._folder).get(step, []) if name not in here])

    def put_steps(self, after: Callable[[], None]) -> Future[None]:
        """Brings the steps of the bucket to those of the disk in the background.

        A step is there when all of it is; one that is deleted is gone at once.

        Args:
          after: returns when all steps of the disk are complete.

        Returns:
          What ends when that is done, with an OSError where the bucket refuses.
        """
        return self._background.submit(self._put, after)

    def _put(self, after: Callable[[], None]) -> None:
        after()
        there, here = steps(self._folder), self._local_steps()
        for step in sorted(here - there.keys()):
            name = str(step)
            # One that somebody deleted in the bucket may be here without its arrays.
            if (self.local / name / _ARRAYS).is_dir():
                storage.put(self.local / name, self._folder / name, last=(_MARKS["s3"],))
        for name in {path.partition("/")[0] for path in storage.files_below(self._folder)}:
            if not (name.isdigit() and int(name) in here):
                remove(self._folder, name)

    def _fetch(self, step: int, names: list[str]) -> None:
        try:
            storage.fetch(self._folder / str(step), self.local / str(step), names)
        except OSError as error:
            raise UserError(
                f"step {step} in {self._folder} cannot be read ({error.strerror}): try again"
            ) from error

    def _local_steps(self) -> set[int]:
        return {int(path.name) for path in self.local.iterdir() if path.name.isdigit()}
