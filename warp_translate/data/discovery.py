"""Finds the images of a folder or a list, and where each belongs; nothing is opened."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from warp_translate.data import folder_layout, lists
from warp_translate.data.paired_layout import SPLITS
from warp_translate.errors import UserError, shown
from warp_translate.file_tree import walk
from warp_translate.image_io import SUFFIXES

_PART = re.compile(rf"(?P<split>{'|'.join(SPLITS)})(?:(?P<side>[AB])|/(?P<domain>.+))?")


class Discovered(NamedTuple):
    """An image that is there, or that a list says is there.

    Attributes:
      path: below the root, as the file system has it.
      part: the folder that counts, see `part_of`.
      name: what its partner in another part is called as well.
      split: one of `paired_layout.SPLITS`, or "".
      group: what must not be parted, as a list says; None where none is said.
      bytes: its size; 0 of a file that is not there.
      changed: time of change in nanoseconds; 0 likewise.
    """

    path: bytes
    part: str
    name: bytes
    split: str
    group: str | None
    bytes: int
    changed: int


def below(root: Path, passed_over: dict[str, int]) -> Iterator[Discovered]:
    """Finds the images below a folder by their suffixes, see `file_tree.walk`.

    Args:
      root: the folder.
      passed_over: counts the other files by suffix.

    Yields:
      The images, folder by folder, in no order.

    Raises:
      UserError: a folder cannot be listed.
    """
    try:
        for entry in walk(root):
            suffix = os.path.splitext(entry.name)[1].lower()
            if suffix not in SUFFIXES:
                legible = shown(suffix) or "none"
                passed_over[legible] = passed_over.get(legible, 0) + 1
                continue
            size = changed = 0
            with contextlib.suppress(OSError):  # Whoever looks at it will say why.
                stat = entry.stat()
                size, changed = stat.st_size, stat.st_mtime_ns
            path = Path(entry.path).relative_to(root)
            part, name, split = part_of(path)
            yield Discovered(
                *(os.fsencode(path), part, os.fsencode(name), split, None, size, changed)
            )
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be listed ({error.strerror}); check who may read it"
        ) from error


def listed(path: Path) -> Iterator[Discovered]:
    """The images of a list, paths from its folder; of pairs both are named after the line.

    Args:
      path: of the list, see `lists`.

    Yields:
      The images, in the order of the list. Whether they are there is not asked.

    Raises:
      UserError: it is no list.
    """
    for entry in lists.read(path):
        split = entry.split or "train"
        for side, file in zip("AB", entry.files, strict=False):
            below_list = os.path.relpath(file, path.parent)
            # As wide as numbers must be to stay in order.
            part, name = f"{split}{side}", f"{entry.line:012}"
            if entry.domain is not None:
                part, name = f"{split}/{entry.domain}", below_list
            size = changed = 0
            with contextlib.suppress(OSError):  # Whoever looks at it will say why.
                stat = file.stat()
                size, changed = stat.st_size, stat.st_mtime_ns
            yield Discovered(
                *(os.fsencode(below_list), part, os.fsencode(name), split, entry.group or None),
                *(size, changed),
            )


def part_of(path: Path) -> tuple[str, str, str]:
    """Where an image belongs by its path below the root.

    Args:
      path: relative.

    Returns:
      The part: "trainA", "train/apple", "apple", or "." for the root itself; the path below it
      without suffix, see `folder_layout.name_of`; and the split.
    """
    folders = path.parts[:-1]
    depth = min(len(folders), 2 if folders and folders[0] in SPLITS else 1)
    part = os.fsencode("/".join(folders[:depth]) or ".").decode(errors="backslashreplace")
    name = folder_layout.name_of(Path(*path.parts[depth:]))
    return part, name, split_and_domain(part)[0]


def split_and_domain(part: str) -> tuple[str, str | None]:
    """What the name of a part says.

    Args:
      part: as `part_of` makes it.

    Returns:
      The split, "" where it says none; and the domain, "A" or "B" of twins, else the folder's name,
      None of strips and of the root.
    """
    found = _PART.fullmatch(part)
    if found:
        return found["split"], found["side"] or found["domain"]
    return "", None if part == "." else part
