"""Lists of images in a CSV file, which stand in place of a folder that is laid out.

The first line names the columns. Pairs have ``source`` and ``target``, domains ``file`` and
``domain``; either may have ``split``, train, val or test, and ``group``. Files are below the list's
own folder, or absolute; the text is UTF-8, in which names of other bytes are kept as they are.
Where a split is missing a tenth is held out for testing: files of one group stay together, and
which groups are held out follows from their names alone, so that a list that grows keeps its test
images; of a few files, of which none would be, it is one.
"""

import csv
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from warp_translate import storage
from warp_translate.data import folder_layout
from warp_translate.data.folder_layout import HELD_OUT_SHARE
from warp_translate.data.paired_layout import SPLITS, PairedLayout, PairFiles
from warp_translate.data.unpaired_layout import SPLITS as UNPAIRED_SPLITS
from warp_translate.data.unpaired_layout import UnpairedLayout
from warp_translate.errors import UserError
from warp_translate.image_io import SUFFIXES

PAIR_COLUMNS = ("source", "target")
DOMAIN_COLUMNS = ("file", "domain")
FURTHER_COLUMNS = ("split", "group")


@dataclass(frozen=True)
class Entry:
    """One line of a list.

    Attributes:
      line: its number in the file, from 1.
      name: the first file as the list has it.
      files: the source and the target, or the one file; absolute.
      domain: None of a pair.
      split: "" where none is said.
      group: what must not be parted; "" where none is said.
    """

    line: int
    name: str
    files: tuple[Path, ...]
    domain: str | None
    split: str
    group: str


def is_list(root: str | os.PathLike[str]) -> bool:
    """Whether a root is a list instead of a folder."""
    return Path(root).suffix.lower() == ".csv"


def on_disk(root: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """A user's folder or list of images: itself, or a copy on the disk of what is in a bucket.

    Of a list the folder that it is in is copied.

    Raises:
      UserError: it is not there or cannot be read.
    """
    if storage.scheme(root) is None:
        return root
    if not is_list(root):
        return storage.mirrored(root)
    path = storage.to_path(root)
    return storage.mirrored(path.parent) / path.name


def read(path: str | os.PathLike[str]) -> Iterator[Entry]:
    """Reads a list line by line.

    Args:
      path: the CSV file.

    Yields:
      Its lines; empty ones are left out.

    Raises:
      UserError: it cannot be read, a column is missing or unknown, or a line is not as it should
        be. Whether the files are there is not looked at.
    """
    path = Path(path).expanduser().resolve()
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as text:
            lines = csv.DictReader(text, strict=True)
            names = _columns(path, lines.fieldnames or ())
            for row in lines:
                yield _entry(path, lines.line_num, names, row)
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path} cannot be read as a list ({reason}): give a CSV file in UTF-8"
        ) from error


def scan_pair_list(path: str | os.PathLike[str]) -> PairedLayout:
    """The pairs of a list.

    Raises:
      UserError: it is no list of pairs, a file is missing, or there are too few to hold some out.
    """
    entries = _all(path, PAIR_COLUMNS)
    root = Path(path).expanduser().resolve().parent
    parted, held_out = _parted(path, entries)
    splits = {
        split: tuple(PairFiles(os.path.relpath(each.files[0], root), *each.files) for each in found)
        for split, found in parted.items()
    }
    return PairedLayout(root, splits, held_out)


def scan_two_domains(path: str | os.PathLike[str]) -> UnpairedLayout:
    """The images of a list's two domains; A is the one whose name comes first in the alphabet.

    Raises:
      UserError: it has not two domains, a file is missing, or there are too few to hold some out.
    """
    entries = _all(path, DOMAIN_COLUMNS)
    domains = sorted({str(each.domain) for each in entries})
    if len(domains) != 2:
        raise UserError(
            f"{path} has {len(domains)} domains, {folder_layout.some(domains)}: training between "
            "two needs a list of two"
        )
    layout = _by_domain(path, entries, domains)
    named = {f"{split}{place}": f"{split}{'AB'[place]}" for split in SPLITS for place in (0, 1)}
    splits = {named[name]: files for name, files in layout.splits.items()}
    return UnpairedLayout(
        layout.root, {name: splits[name] for name in UNPAIRED_SPLITS}, layout.held_out
    )


def scan_listed_domains(path: str | os.PathLike[str], domains: Sequence[str]) -> UnpairedLayout:
    """The images of domains in a list, "train0" and "test0" of the first one, and so on.

    Raises:
      UserError: a domain has no image, a file is missing, or there are too few to hold some out.
    """
    return _by_domain(path, _all(path, DOMAIN_COLUMNS), domains)


def write(
    path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Sequence[str]]
) -> int:
    """Writes a list, whole or not at all.

    Args:
      path: the file; its folder is there.
      columns: names of the columns.
      rows: a value for each column.

    Returns:
      The number of rows.

    Raises:
      OSError: it cannot be written.
    """
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    count = 0
    try:
        with open(unfinished, "w", newline="", encoding="utf-8", errors="surrogateescape") as text:
            lines = csv.writer(text, lineterminator="\n")
            # Some versions of csv do not quote a carriage return, and read it as the line's end.
            quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
            lines.writerow(columns)
            for row in rows:
                (quoted if any("\r" in value for value in row) else lines).writerow(row)
                count += 1
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return count


def split_of(group: str, test: float, val: float = 0.0) -> str:
    """The split of a group, which follows from its name and the shares alone.

    Args:
      group: its name.
      test: share of the groups that is tested with, from 0 to 1.
      val: share that is validated with; both together are at most 1.

    Returns:
      "test", "val" or "train".
    """
    place = _place(group)
    return "test" if place < test else "val" if place < test + val else "train"


def _place(group: str) -> float:
    """A number in [0, 1) for a name, spread evenly over names."""
    digest = hashlib.sha256(os.fsencode(group)).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _columns(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Which of the two kinds of list it is."""
    for wanted in (PAIR_COLUMNS, DOMAIN_COLUMNS):
        if set(wanted) <= set(names):
            unknown = sorted(set(names) - set(wanted) - set(FURTHER_COLUMNS))
            if unknown:
                raise UserError(
                    f"{path} has columns that mean nothing here, {', '.join(unknown)}: a list has "
                    f"{', '.join(wanted)} and, if need be, {', '.join(FURTHER_COLUMNS)}"
                )
            return wanted
    raise UserError(
        f"{path} has the columns {', '.join(names) or 'of an empty file'}: a list of pairs has "
        f"{','.join(PAIR_COLUMNS)} and one of domains {','.join(DOMAIN_COLUMNS)} in its first line"
    )


def _entry(path: Path, line: int, names: Sequence[str], row: dict[str | None, object]) -> Entry:
    if None in row or None in row.values():
        raise UserError(f"{path}, line {line}: it has not as many values as there are columns")
    values = {name: str(row[name]) for name in row if name is not None}
    named = names if names == PAIR_COLUMNS else names[:1]
    for name, value in values.items():
        # A file may be called so; else it is what somebody has put behind a comma.
        if name not in named or not os.path.lexists(path.parent / value):
            values[name] = value.strip()
    for name in names:
        if not values[name]:
            raise UserError(f"{path}, line {line}: {name} is empty; fill it in or drop the line")
    split = values.get("split", "")
    if split and split not in SPLITS:
        raise UserError(f"{path}, line {line}: split {split!r} is none of {', '.join(SPLITS)}")
    for name in named:
        if Path(values[name]).suffix.lower() not in SUFFIXES:
            raise UserError(
                f"{path}, line {line}: {values[name]} is none of {', '.join(SUFFIXES)}; convert it"
            )
    return Entry(
        line,
        values[names[0]],
        tuple(path.parent / values[name] for name in named),
        values.get("domain"),
        split,
        values.get("group", ""),
    )


def _all(path: str | os.PathLike[str], wanted: tuple[str, ...]) -> list[Entry]:
    entries, missing = [], []
    for entry in read(path):
        if (entry.domain is None) != (wanted == PAIR_COLUMNS):
            raise UserError(
                f"{path} is a list of {'pairs' if entry.domain is None else 'domains'}; this "
                f"training takes one with {','.join(wanted)} in its first line"
            )
        entries.append(entry)
        missing += [(entry.line, file) for file in entry.files if not file.is_file()]
    if missing:
        line, file = missing[0]
        try:
            hint = ""
            str(file).encode()
        except UnicodeEncodeError:
            hint = "; is the list saved as UTF-8?"
        raise UserError(
            f"{path}: {len(missing)} of the files are not there, {file} of line {line} for instance"
            f"{hint}"
        )
    if not entries:
        raise UserError(f"{path} lists no image; add some")
    return entries


def _parted(
    path: str | os.PathLike[str], entries: list[Entry]
) -> tuple[dict[str, list[Entry]], bool]:
    """The entries by split, "train" and "test" at least, and whether the latter were held out."""
    said = [bool(entry.split) for entry in entries]
    if any(said) and not all(said):
        line = entries[said.index(False)].line
        raise UserError(f"{path}, line {line}: it has no split, and others have one; fill it in")
    held_out = not any(entry.split == "test" for entry in entries)
    tested: set[str] = set()
    if held_out:
        mine = {each.group or each.name for each in entries if each.split in ("", "train")}
        groups = sorted(mine, key=_place)
        if len(groups) < 2:
            raise UserError(
                f"{path} has no test split and {len(groups)} file or group to hold out of: add some"
            )
        # Of few groups perhaps none is below the share, and of all one must stay.
        below = [group for group in groups[:-1] if _place(group) < HELD_OUT_SHARE]
        tested = set(below or groups[:1])
    parted: dict[str, list[Entry]] = {}
    for entry in entries:
        held = (entry.group or entry.name) in tested and entry.split in ("", "train")
        parted.setdefault("test" if held else entry.split or "train", []).append(entry)
    if "train" not in parted:
        raise UserError(f"{path} has no line whose split is train; there must be some")
    return parted, held_out


def _by_domain(
    path: str | os.PathLike[str], entries: list[Entry], domains: Sequence[str]
) -> UnpairedLayout:
    root = Path(path).expanduser().resolve().parent
    splits: dict[str, tuple[Path, ...]] = {}
    held = False
    for place, domain in enumerate(domains):
        mine = [entry for entry in entries if entry.domain == domain]
        if not mine:
            known = folder_layout.some(sorted({str(entry.domain) for entry in entries}))
            raise UserError(f"{path} has no image of {domain}; its domains are {known}")
        parted, held_here = _parted(path, mine)
        held = held or held_here
        for split in ("train", "test"):
            splits[f"{split}{place}"] = tuple(entry.files[0] for entry in parted[split])
    return UnpairedLayout(root, splits, held)
