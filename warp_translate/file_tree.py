"""Walks a folder: links to folders are followed, hidden files and folders are passed over."""

import os
from collections.abc import Iterator


def walk(folder: str | os.PathLike[str], recursive: bool = True) -> Iterator[os.DirEntry[str]]:
    """Finds the files of a folder.

    A link that leads back to a folder above it is not followed, so the walk ends.

    Args:
      folder: where to look.
      recursive: whether to look in the folders below as well.

    Yields:
      Regular files and links that lead nowhere, whose readers say why, folder by folder in no
      order; their paths begin with ``folder``. No pipes, sockets or devices: reading one may never
      end.

    Raises:
      OSError: a folder cannot be listed.
    """
    ahead: list[tuple[str, frozenset[tuple[int, int]]]] = [(os.fspath(folder), frozenset())]
    while ahead:
        path, above = ahead.pop()
        stat = os.stat(path)
        identity = (stat.st_dev, stat.st_ino)
        if identity in above:
            continue
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if leads_nowhere(entry):
                    yield entry
                elif entry.is_dir():
                    if recursive:
                        ahead.append((entry.path, above | {identity}))
                elif entry.is_file():
                    yield entry


def leads_nowhere(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a link whose target is missing or is the link itself."""
    return entry.is_symlink() and not os.path.exists(entry.path)
