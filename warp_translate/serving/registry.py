"""What is served: a folder of bundles, watched while requests are answered."""

import dataclasses
import itertools
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from warp_translate.errors import UserError, shown
from warp_translate.serving import bundle as bundles
from warp_translate.serving.bundle import AnyBundle, ClassifierBundle
from warp_translate.serving.classifier import Classifier
from warp_translate.serving.engine import Backend, Engine, open_engine
from warp_translate.serving.routing import Pair
from warp_translate.visualize import MAPS

_Stamp = tuple[tuple[str | int, ...], ...]
"""Tells one state of a folder from another: of each file its name, number, size and time."""

_MOST_FILES = 256  # Of a folder, by which its state is told.
_TRIED_SIDE = 8


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What is served at one moment. It does not change, so that a request can keep it.

    Attributes:
      engines: generators that are ready, by the domains that they translate from and to.
      classifier: tells what an image is; None if there is none.
      problems: what is wrong with a folder, by the folder's name.
    """

    engines: Mapping[Pair, Engine]
    classifier: Classifier | None
    problems: Mapping[str, str]


def open_bundle(
    bundle: AnyBundle, backend: Backend = "auto", *, threads: int | None = None
) -> Engine | Classifier:
    """Makes a bundle of whatever kind ready, and tries it on a picture of a few pixels.

    Args:
      bundle: the bundle.
      backend: what runs it, see `engine.open_engine`.
      threads: most threads of one translation, see there.

    Raises:
      UserError: the backend is not installed, a file of the bundle is damaged, or what comes out is
        no translation or no probabilities.
    """
    if isinstance(bundle, ClassifierBundle):
        classifier = Classifier(bundle, backend, threads=threads)
        tried = np.zeros((1, bundle.size, bundle.size, 3), np.uint8)
        found = classifier.probabilities(tried)
        good = found.shape == (1, len(bundle.domains)) and abs(float(found.sum()) - 1) < 1e-3
        _check(good, bundle)
        return classifier
    engine = open_engine(bundle, backend, threads=threads)
    picture = np.zeros((1, _TRIED_SIDE, _TRIED_SIDE, 3), np.uint8)
    translated = engine.translate(picture, with_maps=True)
    output, maps = translated.output, translated.maps or {}
    good = output.shape == picture.shape and output.dtype == np.uint8 and maps.keys() == set(MAPS)
    # Of pixels that are no numbers bytes are made like of all others.
    _check(good and all(np.isfinite(each).all() for each in maps.values()), bundle)
    return engine


def _check(good: bool, bundle: AnyBundle) -> None:
    if not good:
        what = "probabilities" if isinstance(bundle, ClassifierBundle) else "a translation"
        raise UserError(f"what {bundle.folder} gives is not {what}; export the bundle again")


@dataclasses.dataclass(frozen=True)
class _Entry:
    stamp: _Stamp
    ready: Engine | Classifier | None  # None: nothing of this folder could be loaded yet.
    problem: str | None


class Registry:
    """Loads the bundles of a folder, and again what changes there.

    A bundle counts as changed when one of its files is another one or was written to, the card
    aside: an export replaces all of them at once, and other tools copy one after the other. The new
    one is loaded beside the old one and then takes its place at once; requests that hold a snapshot
    finish with the old one. Where the new one is broken the old one goes on serving. Whatever is
    wrong with a folder is told in one line, and concerns no other folder. A folder that is gone is
    dropped when it is still gone at the next look, since it is for a moment while it is replaced.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        open_bundle: Callable[[AnyBundle], Engine | Classifier] = open_bundle,
        *,
        note: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    ) -> None:
        """Remembers the folder; `scan` loads.

        Args:
          folder: holds a folder for each bundle.
          open_bundle: makes a bundle ready.
          note: is told of every problem once, in a line.
        """
        self._folder = Path(folder)
        self._open, self._note = open_bundle, note
        self._scanning = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._missing: set[str] = set()
        self._snapshot = Snapshot({}, None, {})

    def snapshot(self) -> Snapshot:
        """What is served now."""
        return self._snapshot

    def scan(self) -> Snapshot:
        """Looks for what is new, changed or gone, loads it, and returns what is served then.

        Raises:
          UserError: the folder itself cannot be read.
        """
        with self._scanning:
            for name in bundles.recover(self._folder):
                self._note(f"{name} is there again as it was before an export that was killed")
            stamps = self._stamps()
            gone = self._entries.keys() - stamps.keys()
            dropped, self._missing = gone & self._missing, gone - self._missing
            entries = {name: entry for name, entry in self._entries.items() if name not in dropped}
            for name, stamp in stamps.items():
                known = entries.get(name)
                if known is None or known.stamp != stamp:
                    entries[name] = self._load(name, stamp, known)
            self._entries = entries
            before = self._snapshot.problems
            # One assignment, so that no reader sees half of it.
            self._snapshot = _snapshot(entries)
            for name, problem in self._snapshot.problems.items():
                if before.get(name) != problem:
                    self._note(f"{name} is not served: {problem}")
            return self._snapshot

    def _stamps(self) -> dict[str, _Stamp]:
        """The folders that hold a bundle, by name; hidden ones are being written."""
        found = {}
        try:
            children = sorted(self._folder.iterdir())
        except OSError as error:
            raise UserError(
                f"{self._folder} cannot be read ({error.strerror}): give a folder of bundles, the "
                "--output of warp-translate export"
            ) from error
        for child in children:
            if child.name.startswith("."):
                continue
            try:
                os.stat(child / bundles.CONFIG)
                with os.scandir(child) as files:
                    stamp = sorted(map(_state, itertools.islice(files, _MOST_FILES)))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:  # Loading says it in words.
                stamp = [(str(error),)]
            found[child.name] = tuple(stamp)
        return found

    def _load(self, name: str, stamp: _Stamp, before: _Entry | None) -> _Entry:
        folder = self._folder / name
        try:
            return _Entry(stamp, self._open(bundles.read_any(folder)), None)
        except UserError as error:
            problem = str(error)
        except Exception as error:  # Whatever it is, the other folders are served.
            words = " ".join(str(error).split())[:200] or "no further words"
            problem = f"{folder} cannot be used ({type(error).__name__}: {words})"
        older = before.ready if before else None
        problem += "" if older is None else "; what was loaded of it before goes on"
        return _Entry(stamp, older, shown(problem))


def _state(file: "os.DirEntry[str]") -> tuple[str | int, ...]:
    if file.name == bundles.CARD:
        return (file.name,)
    try:
        status = file.stat()
    except OSError as error:  # A link to nothing.
        return file.name, str(error)
    return file.name, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _snapshot(entries: Mapping[str, _Entry]) -> Snapshot:
    entries = {shown(name): entry for name, entry in entries.items()}
    engines: dict[Pair, Engine] = {}
    folders: dict[Pair, str] = {}
    classifier: Classifier | None = None
    problems = {name: entry.problem for name, entry in entries.items() if entry.problem}
    for name, entry in sorted(entries.items()):
        if entry.ready is None:
            continue
        if isinstance(entry.ready, Classifier):
            if classifier is None:
                classifier = entry.ready
            else:
                problems.setdefault(
                    name,
                    f"{name} classifies as {classifier.bundle.name} does, which is asked; remove "
                    "one of them",
                )
            continue
        bundle = entry.ready.bundle
        pair = bundle.source, bundle.target
        if pair in engines:
            problems.setdefault(
                name,
                f"{name} leads from {pair[0]} to {pair[1]} as {folders[pair]} does, which is "
                "served; remove one of them",
            )
            continue
        engines[pair], folders[pair] = entry.ready, name
    return Snapshot(engines, classifier, problems)
