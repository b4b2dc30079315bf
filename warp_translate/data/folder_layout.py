"""What the layouts of users' own folders have in common: finding, holding out, fingerprints."""

import hashlib
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePath
from typing import TypeVar

from warp_translate.errors import UserError

HELD_OUT_SHARE = 0.1
"""How much of train is held out where a folder has no test split."""

_MOST_LISTED = 5

Item = TypeVar("Item")


def find_root(root: str | os.PathLike[str], holds: str) -> Path:
    """Returns the absolute path of a folder.

    Args:
      root: the folder.
      holds: what an error says that it should hold.

    Raises:
      UserError: there is no such folder.
    """
    root = Path(root).expanduser().resolve()
    if not root.is_dir():
        state = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"{root} {state}; name the folder that holds {holds}")
    return root


def find_twins(root: Path, split: str) -> tuple[Path, Path] | None:
    """Returns the folders of A and B in a split, or None if there is neither.

    They are ``root/<split>A`` and ``root/<split>B``, or ``root/<split>/A`` and ``root/<split>/B``.

    Raises:
      UserError: there is only one of them, or both layouts.
    """
    layouts = [[root / f"{split}{side}" for side in "AB"], [root / split / side for side in "AB"]]
    found = [twins for twins in layouts if any(folder.is_dir() for folder in twins)]
    if not found:
        return None
    if len(found) > 1:
        raise UserError(
            f"{root} holds both {split}A/ or {split}B/ and {split}/A/ or {split}/B/; "
            "remove one layout"
        )
    a, b = found[0]
    for there, missing in ((a, b), (b, a)):
        if not missing.is_dir():
            raise UserError(f"{there} has no partner {missing.name}/ beside it; add or remove one")
    return a, b


def name_of(path: PurePath) -> str:
    """What a file is called below its folder: without suffix, in Unicode's composed form.

    Some systems decompose the letters of names (NFD), so the names of two copies may differ in
    their bytes.
    """
    return unicodedata.normalize("NFC", path.with_suffix("").as_posix())


def hold_out(
    items: Iterable[Item], name_of: Callable[[Item], str], share: float
) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Splits items into those that stay and those held out, which have the smallest SHA-256.

    Args:
      items: at least two.
      name_of: gives the name that is hashed; names are distinct.
      share: how much is held out; at least one item is.

    Returns:
      The items that stay and the items held out, each in the order given.

    Raises:
      ValueError: fewer than two items.
    """
    items = tuple(items)
    if len(items) < 2:
        raise ValueError(f"of {len(items)} items none can be held out")
    count = max(1, round(len(items) * share))
    by_hash = sorted(map(name_of, items), key=lambda n: hashlib.sha256(os.fsencode(n)).digest())
    held = frozenset(by_hash[:count])
    return (
        tuple(item for item in items if name_of(item) not in held),
        tuple(item for item in items if name_of(item) in held),
    )


def fingerprint_files(root: Path, splits: Mapping[str, Iterable[Path]]) -> str:
    """Digests what the preparation of a folder depends on, without reading the images.

    Args:
      root: the folder, absolute.
      splits: files by split, below it or, in a list, anywhere.

    Returns:
      16 hexadecimal digits that follow from the folder's path, the names of the splits and, for
      each file, its path below the folder, its size and its time of change.

    Raises:
      UserError: a file has vanished since the scan.
    """
    digest = hashlib.sha256(os.fsencode(root))
    for split, paths in sorted(splits.items()):
        # An empty name ends the split before, since no file has one.
        digest.update(b"\0\0%s" % split.encode())
        for path in paths:
            stat = stat_file(path)
            digest.update(b"\0%s" % os.fsencode(os.path.relpath(path, root)))
            digest.update(b"\0%d\0%d" % (stat.st_size, stat.st_mtime_ns))
    return digest.hexdigest()[:16]


def stat_file(path: Path) -> os.stat_result:
    """Returns size and times of a file that a scan has found.

    Raises:
      UserError: it has vanished since.
    """
    try:
        return path.stat()
    except OSError as error:
        raise UserError(f"{path} vanished while it was read; try again") from error


def contents(folder: Path) -> str:
    """What a folder holds, for an error: the first few names, and how many more there are."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    return some(names) if names else "nothing"


def some(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _MOST_LISTED
    return ", ".join(names[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
