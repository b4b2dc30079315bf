"""All images of a folder and what is in them, on disk: a million need no more memory than ten.

One SQLite file. It is filled as files are found and looked at, so that work that was cut short goes
on where it was, and files that have not changed are never looked at twice. SQLite keeps no
checksums: a checksum of what was seen of a file stands beside it, and what no longer agrees with
its own is looked at again. The rest of a row is compared with the file at every scan.
"""

import contextlib
import itertools
import os
import secrets
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from absl import logging

from warp_translate.data import discovery, folder_layout, lists
from warp_translate.data.inspection import inspect_all
from warp_translate.errors import UserError, shown

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
  id INTEGER PRIMARY KEY,
  path BLOB NOT NULL,            -- below the root, as the file system has it
  part TEXT NOT NULL,            -- see discovery.part_of
  name BLOB NOT NULL,            -- below the part, without suffix
  split TEXT NOT NULL,
  grouped TEXT,                  -- what a list says must not be parted
  bytes INTEGER NOT NULL,
  changed INTEGER NOT NULL,      -- nanoseconds
  seen INTEGER NOT NULL,         -- number of the scan
  looked INTEGER NOT NULL DEFAULT 0,  -- checksum of what follows, see _mark; 0 before that
  problem TEXT, width INTEGER, height INTEGER, mode TEXT, format TEXT, pixels BLOB, look INTEGER,
  UNIQUE (path, part, name)
);
CREATE INDEX IF NOT EXISTS by_part ON files (part, name);
CREATE INDEX IF NOT EXISTS by_pixels ON files (pixels);
CREATE INDEX IF NOT EXISTS by_look ON files (look);
CREATE INDEX IF NOT EXISTS by_looked ON files (looked, id);
CREATE TABLE IF NOT EXISTS passed_over (suffix TEXT PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value BLOB NOT NULL);
"""
_VERSION = b"3"
_SEEN = "problem, width, height, mode, format, pixels, look"
_DEFINITIONS = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
_INSERTED_AT_ONCE = 1000
_LOOKED_AT_AT_ONCE = 32


@dataclass(frozen=True)
class Part:
    """The images of one folder that counts: of a split, of a domain, or both.

    Attributes:
      name: "trainA", "train/apple", "apple", or "." for those that lie in the root itself.
      files: number of images.
      readable: number of those that can be read.
      bytes: on disk.
    """

    name: str
    files: int
    readable: int
    bytes: int

    @property
    def split(self) -> str:
        """The split that it is of, "" where its name says none."""
        return discovery.split_and_domain(self.name)[0]

    @property
    def domain(self) -> str | None:
        """The domain, A or B of twins; None of strips and of the root."""
        return discovery.split_and_domain(self.name)[1]


@dataclass(frozen=True)
class Sizes:
    """Widths and heights of images, each from the smallest to the largest.

    Attributes:
      width: smallest, median, largest.
      height: likewise.
      most: the commonest sizes, width and height and how many images have it.
    """

    width: tuple[int, int, int]
    height: tuple[int, int, int]
    most: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Alike:
    """Images that show the same.

    Attributes:
      groups: how many different ones there are of which there is more than one.
      files: how many images too many.
      across: how many of the groups are in more than one split.
      example: paths of one group, of one across splits where there is one.
    """

    groups: int
    files: int
    across: int
    example: tuple[str, ...]


class Inventory:
    """The images below a folder or in a list; close it after use.

    Attributes:
      source: the folder or the list, absolute.
      of_list: whether it is a list.
      root: the folder that paths are below.
    """

    def __init__(self, root: str | os.PathLike[str], store: str | os.PathLike[str]) -> None:
        """Opens or begins an inventory.

        Args:
          root: the folder, or a list, see `lists`.
          store: the SQLite file; ":memory:" keeps nothing.

        An inventory that is damaged is put aside as ``<store>.damaged`` and begun anew.

        Raises:
          UserError: there is no such folder, or the file is no inventory of it.
        """
        self.source = Path(root).expanduser().resolve()
        self.of_list = lists.is_list(root)
        self.root = folder_layout.find_root(self.source.parent if self.of_list else root, "images")
        self._store = os.fspath(store)
        about = {"version": _VERSION, "root": os.fsencode(self.source)}
        try:
            try:
                known = self._open(about)
            except _Damaged as error:
                aside = f"{self._store}.damaged"
                logging.warning(
                    "%s is damaged (%s): it is kept as %s, and all images are looked at again",
                    *(self._store, error, aside),
                )
                os.replace(self._store, aside)
                # What was to be undone of the other file is not to be undone of the new one.
                Path(f"{self._store}-journal").unlink(missing_ok=True)
                known = self._open(about)
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"{self._store} cannot be used ({error}); remove it or choose another --output"
            ) from error
        if known != about:
            whose = f"of {os.fsdecode(known['root'])}"
            if known["version"] != _VERSION:
                whose = "of another version of this program"
            raise UserError(
                f"{self._store} is the inventory {whose}; choose another --output, or remove it"
            )

    def _open(self, about: dict[str, bytes]) -> dict[str, bytes]:
        """Opens the file, checks it, and returns what it says of itself; ``about`` if it is new.

        Raises:
          _Damaged: it is not as it was written.
          sqlite3.Error: it cannot be used.
        """
        self._rows = sqlite3.connect(self._store)
        # What is damaged may be no UTF-8.
        self._rows.text_factory = lambda text: text.decode(errors="surrogateescape")
        try:
            self._rows.executescript(_SCHEMA)
            self._rows.executemany("INSERT OR IGNORE INTO about VALUES (?, ?)", about.items())
            self._rows.commit()
            known = dict(self._rows.execute("SELECT key, value FROM about"))
            if known.keys() != about.keys() or not all(
                isinstance(v, bytes) for v in known.values()
            ):
                raise _Damaged("it does not say of what it is")
            if known["version"] == _VERSION:
                self._check()
        except (sqlite3.Error, UnicodeDecodeError, _Damaged) as error:
            self._rows.close()
            # Subclasses of DatabaseError tell of the disk, of rights, and of other processes. What
            # SQLite says of a damaged table may quote it, and be no text.
            if type(error) in (sqlite3.DatabaseError, UnicodeDecodeError):
                raise _Damaged(str(error)) from error
            raise
        return known

    def _check(self) -> None:
        """Marks what is damaged to be looked at again; raises _Damaged where that is not enough."""
        (found,) = self._rows.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise _Damaged(" ".join(found.split()))
        with contextlib.closing(sqlite3.connect(":memory:")) as new:
            new.executescript(_SCHEMA)
            if list(self._rows.execute(_DEFINITIONS)) != list(new.execute(_DEFINITIONS)):
                raise _Damaged("its tables are not as they were made")
        rows = self._rows.execute(f"SELECT id, looked, {_SEEN} FROM files WHERE looked IS NOT 0")
        damaged = [(id_,) for id_, looked, *seen in rows if looked != _mark(seen)]
        if damaged:
            logging.warning(
                "%s is damaged: %d images in it are looked at again", self._store, len(damaged)
            )
            with self._rows:
                self._rows.executemany("UPDATE files SET looked = 0 WHERE id = ?", damaged)

    def close(self) -> None:
        """Closes the file."""
        self._rows.close()

    def scan(self) -> int:
        """Finds the images, and forgets those that are gone. Nothing is opened.

        Returns:
          How many there are.

        Raises:
          UserError: a folder cannot be listed, a list cannot be read, or the store is full.
        """
        turn = secrets.randbits(62)
        passed_over: dict[str, int] = {}
        if self.of_list:
            found = discovery.listed(self.source)
        else:
            found = discovery.below(self.root, passed_over)
        while chunk := list(itertools.islice(found, _INSERTED_AT_ONCE)):
            with self._writing():
                self._rows.executemany(
                    "INSERT INTO files (path, part, name, split, grouped, bytes, changed, seen) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (path, part, name) DO UPDATE SET "
                    # What has changed is looked at again.
                    "looked = CASE WHEN bytes = excluded.bytes AND changed = excluded.changed THEN "
                    "looked ELSE 0 END, bytes = excluded.bytes, changed = excluded.changed, "
                    "seen = excluded.seen, split = excluded.split, grouped = excluded.grouped",
                    [(*each, turn) for each in chunk],
                )
        with self._writing():
            self._rows.execute("DELETE FROM files WHERE seen IS NOT ?", (turn,))
            self._rows.execute("DELETE FROM passed_over")
            self._rows.executemany("INSERT INTO passed_over VALUES (?, ?)", passed_over.items())
        return self.count()

    def ahead(self) -> int:
        """Number of images that are not looked at."""
        return self._one("SELECT count(*) FROM files WHERE looked = 0")

    def look(self, workers: int, advance: Callable[[int], None]) -> None:
        """Looks at every image that was not looked at before.

        Args:
          workers: processes that read files; 0 reads them in this one.
          advance: is told how many more are done, after every few.

        Raises:
          UserError: the store is full.
        """
        for rows, seen in inspect_all(self._ahead(), workers):
            with self._writing():
                self._rows.executemany(
                    f"UPDATE files SET (looked, {_SEEN}) = (?, ?, ?, ?, ?, ?, ?, ?) WHERE id = ?",
                    [
                        (_mark(astuple(each)), *astuple(each), row)
                        for row, each in zip(rows, seen, strict=True)
                    ],
                )
            advance(len(rows))

    def count(self) -> int:
        """Number of images."""
        return self._one("SELECT count(*) FROM files")

    def parts(self) -> list[Part]:
        """The folders that count, by name."""
        rows = self._rows.execute(
            "SELECT part, count(*), sum(problem IS NULL), sum(bytes) FROM files "
            "GROUP BY part ORDER BY part"
        )
        return [Part(*row) for row in rows]

    def passed_over(self) -> dict[str, int]:
        """How many other files there are, by suffix, the commonest first."""
        rows = self._rows.execute("SELECT suffix, count FROM passed_over ORDER BY count DESC, 1")
        return dict(rows)

    def sizes(self) -> Sizes | None:
        """What sizes there are; None where nothing can be read."""
        if not self._one("SELECT count(*) FROM files WHERE width"):
            return None
        most = self._rows.execute(
            "SELECT width, height, count(*) AS n FROM files WHERE width GROUP BY width, height "
            "ORDER BY n DESC, width, height LIMIT 3"
        )
        return Sizes(self._range("width"), self._range("height"), tuple(most))

    def kinds(self) -> list[tuple[str, str, int]]:
        """Format, mode and number of images, the commonest first."""
        rows = self._rows.execute(
            "SELECT format, mode, count(*) AS n FROM files WHERE width GROUP BY format, mode "
            "ORDER BY n DESC, format, mode"
        )
        return list(rows)

    def problems(self, most: int) -> tuple[int, list[tuple[str, str]]]:
        """How many images cannot be read, and the first paths with the reason."""
        count = self._one("SELECT count(*) FROM files WHERE problem IS NOT NULL")
        rows = self._rows.execute(
            "SELECT path, problem FROM files WHERE problem IS NOT NULL ORDER BY path LIMIT ?",
            (most,),
        )
        return count, [(_shown(path), problem) for path, problem in rows]

    def same_pixels(self) -> Alike:
        """Images that are equal pixel by pixel."""
        return self._alike("pixels", "count(*) > 1")

    def same_look(self) -> Alike:
        """Images that look alike in small and are not equal: of other sizes or compressions.

        The two of a pair, which have one name in one split, are meant to.
        """
        others = "(count(DISTINCT name) > 1 OR count(DISTINCT split) > 1)"
        return self._alike("look", f"count(DISTINCT pixels) > 1 AND {others}")

    def unmatched(self, first: str, second: str) -> int:
        """How many images of either part have no partner of the same name."""
        return self._one(
            "SELECT count(*) FROM files AS one WHERE part IN (?, ?) AND NOT EXISTS (SELECT 1 FROM "
            "files AS other WHERE other.part IN (?, ?) AND other.part != one.part AND other.name = "
            "one.name)",
            (first, second, first, second),
        )

    def twins(self, split: str) -> list[tuple[str, str]]:
        """The parts of A and B of a split that are both there."""
        names = {part.name for part in self.parts()}
        found = [(f"{split}A", f"{split}B"), (f"{split}/A", f"{split}/B")]
        return [twins for twins in found if names.issuperset(twins)]

    def looks(self, first: str, second: str, most: int) -> list[tuple[int, int]]:
        """What the images of pairs of one name show, of so many pairs spread evenly over all."""
        where = (
            "FROM files AS a JOIN files AS b ON a.name = b.name WHERE a.part = ? AND b.part = ? "
            "AND a.look IS NOT NULL AND b.look IS NOT NULL"
        )
        step = 1 + self._one(f"SELECT count(*) {where}", (first, second)) // most
        rows = self._rows.execute(f"SELECT a.look, b.look {where} ORDER BY a.name", (first, second))
        return list(itertools.islice(rows, 0, None, step))

    def small(self, least: int) -> tuple[int, list[tuple[str, int, int]]]:
        """How many images have a shorter side below this, and the smallest with their sizes."""
        where = "FROM files WHERE min(width, height) < ?"
        count = self._one(f"SELECT count(*) {where}", (least,))
        rows = self._rows.execute(
            f"SELECT path, width, height {where} ORDER BY min(width, height), path LIMIT 3",
            (least,),
        )
        return count, [(_shown(path), width, height) for path, width, height in rows]

    def median_side(self) -> int:
        """The median of the shorter sides; 0 where nothing can be read."""
        count = self._one("SELECT count(width) FROM files")
        row = self._rows.execute(
            "SELECT min(width, height) FROM files WHERE width ORDER BY 1 LIMIT 1 OFFSET ?",
            (max(count - 1, 0) // 2,),
        ).fetchone()
        return row[0] if row else 0

    def unequal(self, first: str, second: str) -> tuple[int, list[tuple[str, str]]]:
        """How many pairs of one name have two sizes, and the first two paths of each."""
        where = (
            "FROM files AS a JOIN files AS b ON a.name = b.name WHERE a.part = ? AND b.part = ? "
            "AND a.width AND b.width AND (a.width != b.width OR a.height != b.height)"
        )
        count = self._one(f"SELECT count(*) {where}", (first, second))
        rows = self._rows.execute(
            f"SELECT a.path, b.path {where} ORDER BY a.path LIMIT 3", (first, second)
        )
        return count, [(_shown(a), _shown(b)) for a, b in rows]

    def strips(self) -> int:
        """How many images have the shape of strips, see `paired_layout.is_strip`."""
        return self._one("SELECT count(*) FROM files WHERE width + 1 >= 2 * height")

    def odd(self) -> int:
        """How many images have an odd width, and no two equal halves."""
        return self._one("SELECT count(*) FROM files WHERE width % 2")

    def good(
        self, first: str, second: str | None = None, smallest: int = 1
    ) -> Iterator[tuple[tuple[Path, ...], str, str | None]]:
        """What can be trained on as it is, in the order of the names.

        Left out are what cannot be read, pairs of two sizes or of which a side is there twice, and
        images of train that are in val or test as well.

        Args:
          first: a part.
          second: the part that has its partners, of the same name, where there are pairs.
          smallest: images whose shorter side has fewer pixels are left out as well.

        Yields:
          The file or both, absolute; a mark of the first, equal for images equal pixel by pixel;
          and the group that a list says it is of.
        """
        untested = (
            "(a.split != 'train' OR a.pixels NOT IN "
            "(SELECT pixels FROM files WHERE split IN ('val', 'test') AND pixels IS NOT NULL)) "
            "AND min(a.width, a.height) >= ?"
        )
        if second is None:
            query = f"a.path, NULL FROM files AS a WHERE a.part = ? AND a.width AND {untested}"
            values: tuple[object, ...] = (first, smallest)
        else:
            query = (
                "min(a.path), min(b.path) FROM files AS a JOIN files AS b ON a.name = b.name "
                f"WHERE a.part = ? AND b.part = ? AND {untested} GROUP BY a.name HAVING "
                "count(*) = 1 AND a.width = b.width AND a.height = b.height"
            )
            values = (first, second, smallest)
        rows = self._rows.execute(f"SELECT a.pixels, a.grouped, {query} ORDER BY a.name", values)
        for pixels, grouped, *paths in rows:
            files = tuple(self.root / os.fsdecode(path) for path in paths if path is not None)
            yield files, pixels.hex(), grouped

    def examples(self, part: str, most: int) -> list[Path]:
        """Readable images of a part, spread evenly over it."""
        count = self._one("SELECT count(*) FROM files WHERE part = ? AND width", (part,))
        number = min(most, count)
        found = []
        for place in range(number):
            offset = place * (count - 1) // max(number - 1, 1)
            (path,) = self._rows.execute(
                "SELECT path FROM files WHERE part = ? AND width ORDER BY name LIMIT 1 OFFSET ?",
                (part, offset),
            ).fetchone()
            found.append(self.root / os.fsdecode(path))
        return found

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """All of what is written inside, or nothing."""
        try:
            with self._rows:
                yield
        except sqlite3.Error as error:
            raise UserError(
                f"{self._store} cannot be written ({error}); free some space, or choose another "
                "--output"
            ) from error

    def _one(self, query: str, values: Sequence[object] = ()) -> int:
        (found,) = self._rows.execute(query, values).fetchone()
        return found

    def _range(self, side: str) -> tuple[int, int, int]:
        count = self._one(f"SELECT count({side}) FROM files")
        low, high = self._rows.execute(f"SELECT min({side}), max({side}) FROM files").fetchone()
        middle = self._one(
            f"SELECT {side} FROM files WHERE {side} ORDER BY {side} LIMIT 1 OFFSET ?",
            ((count - 1) // 2,),
        )
        return low, middle, high

    def _alike(self, column: str, having: str) -> Alike:
        grouped = (
            f"SELECT {column} AS mark, count(*) AS n, count(DISTINCT split) AS splits FROM files "
            f"WHERE {column} IS NOT NULL GROUP BY {column} HAVING {having}"
        )
        groups, files, across = self._rows.execute(
            f"SELECT count(*), coalesce(sum(n - 1), 0), coalesce(sum(splits > 1), 0) "
            f"FROM ({grouped})"
        ).fetchone()
        first = self._rows.execute(f"{grouped} ORDER BY splits DESC, mark LIMIT 1").fetchone()
        example: tuple[str, ...] = ()
        if first:
            rows = self._rows.execute(
                f"SELECT path FROM files WHERE {column} = ? ORDER BY path LIMIT 3", first[:1]
            )
            example = tuple(_shown(path) for (path,) in rows)
        return Alike(groups, files, across, example)

    def _ahead(self) -> Iterator[tuple[list[int], list[str]]]:
        """Numbers and paths of the images that are not looked at, some at a time."""
        last = 0
        while True:
            rows = self._rows.execute(
                "SELECT id, path FROM files WHERE looked = 0 AND id > ? ORDER BY id LIMIT ?",
                (last, _LOOKED_AT_AT_ONCE),
            ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            numbers, paths = zip(*rows, strict=True)
            yield list(numbers), [os.path.join(self.root, os.fsdecode(path)) for path in paths]


def _shown(path: bytes) -> str:
    """A stored path for people, in one line."""
    return shown(path.decode(errors="backslashreplace"))


class _Damaged(Exception):
    """The file is no longer what was written."""


def _mark(seen: Sequence[object]) -> int:
    """A checksum of what was seen of a file, never 0."""
    return zlib.crc32(repr(tuple(seen)).encode(errors="surrogatepass")) + 1
