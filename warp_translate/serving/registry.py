"""What is served: a folder of bundles, watched while requests are answered."""

import dataclasses
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from warp_translate.errors import UserError
from warp_translate.serving import bundle as bundles
from warp_translate.serving.bundle import AnyBundle, ClassifierBundle
from warp_translate.serving.classifier import Classifier
from warp_translate.serving.engine import Backend, Engine, open_engine
from warp_translate.serving.routing import Pair

_Stamp = tuple[int, int, int]
"""Tells one writing of a file from another: device, file number and time."""


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
    """Makes a bundle of whatever kind ready.

    Args:
      bundle: the bundle.
      backend: what runs it, see `engine.open_engine`.
      threads: most threads of one translation, see there.

    Raises:
      UserError: the backend is not installed, or a file of the bundle is damaged.
    """
    if isinstance(bundle, ClassifierBundle):
        return Classifier(bundle, backend, threads=threads)
    return open_engine(bundle, backend, threads=threads)


@dataclasses.dataclass(frozen=True)
class _Entry:
    stamp: _Stamp
    ready: Engine | Classifier | None  # None: nothing of this folder could be loaded yet.
    problem: str | None


class Registry:
    """Loads the bundles of a folder, and again what changes there.

    A bundle counts as changed when its ``config.json`` is another file, which is how
    ``warp-translate export`` replaces it. The new one is loaded beside the old one and then takes
    its place at once; requests that hold a snapshot finish with the old one. Where the new one is
    broken the old one goes on serving. A folder that is gone is dropped when it is still gone at
    the next look, since it is for a moment while it is replaced.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        open_bundle: Callable[[AnyBundle], Engine | Classifier] = open_bundle,
    ) -> None:
        """Remembers the folder; `scan` loads.

        Args:
          folder: holds a folder for each bundle.
          open_bundle: makes a bundle ready.
        """
        self._folder = Path(folder)
        self._open = open_bundle
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
            stamps = self._stamps()
            gone = self._entries.keys() - stamps.keys()
            dropped, self._missing = gone & self._missing, gone - self._missing
            entries = {name: entry for name, entry in self._entries.items() if name not in dropped}
            for name, stamp in stamps.items():
                known = entries.get(name)
                if known is None or known.stamp != stamp:
                    entries[name] = self._load(name, stamp, known)
            self._entries = entries
            # One assignment, so that no reader sees half of it.
            self._snapshot = _snapshot(entries)
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
                status = (child / bundles.CONFIG).stat()
            except OSError:
                continue
            found[child.name] = (status.st_dev, status.st_ino, status.st_mtime_ns)
        return found

    def _load(self, name: str, stamp: _Stamp, before: _Entry | None) -> _Entry:
        try:
            return _Entry(stamp, self._open(bundles.read_any(self._folder / name)), None)
        except UserError as error:
            return _Entry(stamp, before.ready if before else None, str(error))


def _snapshot(entries: Mapping[str, _Entry]) -> Snapshot:
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
