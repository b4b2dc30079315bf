"""Makes a list of all that is good in a folder, with a split for every image."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from warp_translate.data import lists
from warp_translate.data.fitting import STRIPS, Fit
from warp_translate.data.inventory import Inventory
from warp_translate.data.paired_layout import SPLITS
from warp_translate.errors import UserError


@dataclass(frozen=True)
class Shares:
    """How a folder without a test split is parted.

    Attributes:
      test: share of the groups that is tested with.
      val: share that is validated with.
      group_of: maps a path below the root to what must not be parted; by default the groups of a
        list, else images that are equal pixel by pixel.
    """

    test: float = 0.1
    val: float = 0.0
    group_of: Callable[[Path], str] | None = None


def write_list(
    path: str | os.PathLike[str],
    inventory: Inventory,
    fit: Fit,
    shares: Shares,
    smallest: int = 1,
) -> dict[str, int]:
    """Writes the list.

    Args:
      path: the CSV file to write; the files in it are named from its folder.
      inventory: whose images were looked at.
      fit: what they are, the first of `fitting.fits`.
      shares: of the splits where there is no test split yet.
      smallest: images whose shorter side has fewer pixels are left out.

    Returns:
      The number of lines by split.

    Raises:
      UserError: strips, which are one file for two images, or nothing to train or to test with.
      OSError: it cannot be written.
    """
    if fit.title == STRIPS:
        raise UserError(
            f"{inventory.root} holds strips, one file for both images, and a list of pairs names "
            "two: train on the folder as it is"
        )
    pairs = fit.name == "paired_folder"
    columns = (*(lists.PAIR_COLUMNS if pairs else lists.DOMAIN_COLUMNS), "split")
    counts: dict[str, int] = {}
    base = Path(path).expanduser().resolve().parent
    rows = _rows(inventory, pairs, shares, smallest, base, counts)
    # Known before anything is written over.
    lists.write(path, columns, _with_both(rows, counts))
    return counts


def _with_both(rows: Iterator[list[str]], counts: dict[str, int]) -> Iterator[list[str]]:
    yield from rows
    for split in ("train", "test"):
        if not counts.get(split):
            raise UserError(
                f"no image is left to {split} with: add images, or change --test_share and --group"
            )


def _rows(
    inventory: Inventory,
    pairs: bool,
    shares: Shares,
    smallest: int,
    base: Path,
    counts: dict[str, int],
) -> Iterator[list[str]]:
    sources = list(_sources(inventory, pairs))
    parted = any(split == "test" for split, *_ in sources)

    def split_of(said: str, file: Path, mark: str, grouped: str | None) -> str:
        if parted or said not in ("", "train"):
            return said or "train"
        group = grouped or mark
        if shares.group_of is not None:
            group = shares.group_of(file.relative_to(inventory.root))
        return lists.split_of(group, shares.test, shares.val)

    # Groups may part copies of an image, of which train has none then.
    tested = set()
    if not parted:
        for said, _, first, second in sources:
            for files, mark, grouped in inventory.good(first, second, smallest):
                if split_of(said, files[0], mark, grouped) != "train":
                    tested.add(mark)
    for said, domain, first, second in sources:
        for files, mark, grouped in inventory.good(first, second, smallest):
            split = split_of(said, files[0], mark, grouped)
            if split == "train" and mark in tested:
                continue
            counts[split] = counts.get(split, 0) + 1
            named = [os.path.relpath(file, base) for file in files]
            yield [*named, *([] if domain is None else [domain]), split]


def _sources(
    inventory: Inventory, pairs: bool
) -> Iterator[tuple[str, str | None, str, str | None]]:
    """Split, domain, part and the part of the partners, of all parts or pairs of parts."""
    if pairs:
        for split in sorted(SPLITS):
            for first, second in inventory.twins(split):
                yield split, None, first, second
        return
    for part in inventory.parts():
        if part.domain is not None:
            yield part.split, part.domain, part.name, None
