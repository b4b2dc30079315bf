"""The ``portraits`` data sets: two domains of faces, chosen by a table beside the pictures.

A folder of portraits holds ``metadata.csv`` with the columns ``file`` (a path below the folder),
``sex`` (male or female) and ``age`` (years). The domains are

- ``male_female``: A is the men, B the women;
- ``old_young``: A is everybody of `OLD_FROM` years or more, B of `YOUNG_UP_TO` years or less.

Of the 160 portraits this was made for, old_young takes 37 and 54 and leaves out the 69 in between:
ages were what a picture was asked for, not what it shows, and with twenty years between the
domains they look their part.

A fifth of each domain is held out for testing: the files whose names have the smallest SHA-256.
Every file shows another person, so nobody is in both.
"""

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from warp_translate.data import folder_layout
from warp_translate.data.unpaired_layout import UnpairedLayout
from warp_translate.errors import UserError

OLD_FROM = 55
YOUNG_UP_TO = 35

_TABLE = "metadata.csv"
_COLUMNS = ("file", "sex", "age")
_SEXES = ("male", "female")
_TEST_SHARE = 0.2


@dataclass(frozen=True)
class Portrait:
    """One row of the table.

    Attributes:
      file: path below the folder.
      sex: "male" or "female".
      age: years.
    """

    file: str
    sex: str
    age: int


_DOMAINS: dict[str, tuple[Callable[[Portrait], bool], Callable[[Portrait], bool]]] = {
    "male_female": (lambda who: who.sex == "male", lambda who: who.sex == "female"),
    "old_young": (lambda who: who.age >= OLD_FROM, lambda who: who.age <= YOUNG_UP_TO),
}

DOMAINS = tuple(_DOMAINS)
"""The names of the two-domain sets."""


def scan_portraits(root: str | os.PathLike[str], domains: str) -> UnpairedLayout:
    """Finds the portraits of two domains by the table alone.

    Args:
      root: the folder; the module's docstring says what it holds.
      domains: one of `DOMAINS`.

    Returns:
      The files of both domains, for training and for testing.

    Raises:
      UserError: unknown domains, no such folder or table, a row that cannot be used, or a domain
        has fewer than two portraits.
    """
    if domains not in DOMAINS:
        raise UserError(f"portraits: domains {domains!r} is none of {', '.join(DOMAINS)}; use one")
    root = folder_layout.find_root(root, f"the portraits and their {_TABLE}")
    portraits = _read_table(root)
    splits = {}
    for domain, label, belongs in zip("AB", domains.split("_"), _DOMAINS[domains], strict=True):
        members = sorted(portrait.file for portrait in portraits if belongs(portrait))
        if len(members) < 2:
            raise UserError(
                f"{root / _TABLE} lists {len(members)} {label} portraits, but training and testing "
                "need one each; add portraits or choose other domains"
            )
        train, test = folder_layout.hold_out(members, str, _TEST_SHARE)
        splits[f"train{domain}"] = tuple(root / file for file in train)
        splits[f"test{domain}"] = tuple(root / file for file in test)
    return UnpairedLayout(root, splits, held_out=False)


def _read_table(root: Path) -> list[Portrait]:
    table = root / _TABLE
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"{table} has no column {', '.join(missing)}; add it")
            portraits = [_read_row(root, row, f"{table}:{reader.line_num}") for row in reader]
    except FileNotFoundError as error:
        raise UserError(
            f"{root} holds {folder_layout.contents(root)}, but no {_TABLE}; add it with the "
            f"columns {', '.join(_COLUMNS)}"
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{table} cannot be read ({reason}); mend it") from error
    files = [portrait.file for portrait in portraits]
    twice = sorted({file for file in files if files.count(file) > 1})
    if twice:
        raise UserError(f"{table} lists {folder_layout.some(twice)} more than once; mend it")
    return portraits


def _read_row(root: Path, row: dict[str, str | None], place: str) -> Portrait:
    file, sex, age = (row[name] or "" for name in _COLUMNS)
    if not (root / file).is_file():
        raise UserError(f"{place}: there is no file {file!r} in {root}; add it or remove the row")
    if sex not in _SEXES:
        raise UserError(f"{place}: sex {sex!r} is none of {', '.join(_SEXES)}; mend the row")
    if not age.isdecimal():
        raise UserError(f"{place}: age {age!r} is no number of years; mend the row")
    return Portrait(file, sex, int(age))
