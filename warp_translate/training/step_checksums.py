"""Checksums of the files of a checkpoint, in the folder of its step, as ``sha256sum`` writes them.

They are written before the step gets its name, or its mark in a bucket, so a step that is seen has
them. Steps of versions that wrote none are recognised by that.
"""

from collections.abc import Callable
from pathlib import Path

from warp_translate import storage

FILE = "SHA256SUMS"

_WITHOUT = (FILE, "commit_success.txt")  # The second is written last, and nobody reads it.


def write(folder: Path) -> None:
    """Writes the checksums of all files in the folder of a step.

    Raises:
      OSError: a file cannot be read, or the checksums cannot be written.
    """
    names = sorted(storage.files_below(folder) - set(_WITHOUT))
    lines = [f"{storage.sha256(folder / name)}  {name}\n" for name in names]
    storage.write_whole(folder / FILE, "".join(lines))


def known(folder: Path) -> bool:
    """Whether the folder of a step has checksums."""
    return (folder / FILE).is_file()


def damaged(folder: Path, wanted: Callable[[str], bool]) -> str | None:
    """Compares the files of a step with their checksums.

    Args:
      folder: of a step that has checksums.
      wanted: which files are read, by their paths from the folder.

    Returns:
      What is wrong with the first file that is not as it was saved; None where all are.

    Raises:
      OSError: a file cannot be read.
    """
    for line in (folder / FILE).read_bytes().decode("utf-8", "replace").splitlines():
        digest, separator, name = line.partition("  ")
        if not separator or not name:
            return f"{FILE} is no list of checksums"
        if not wanted(name):
            continue
        try:
            found = storage.sha256(folder / name)
        except FileNotFoundError:
            return f"{name} is missing"
        if found != digest:
            return f"{name} is not what was saved, by its checksum"
    return None
