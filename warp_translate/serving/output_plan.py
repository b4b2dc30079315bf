"""Which file ``translate`` writes for which image, decided before anything is read or written.

A translation has the name of its image, with the suffix of its format. Where two images would be
written to one file, or a map would take the file of another image, these images keep their suffix
as well: ``a.jpg`` and ``a.png`` become ``a.jpg.png`` and ``a.png.png``. Names that differ in case
or Unicode form alone are one name here, as they are on many file systems.
"""

import collections
import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from warp_translate.errors import UserError, shown
from warp_translate.image_io import FORMAT_OF, SUFFIXES
from warp_translate.serving.batch_translate import Job

OutputFormat = Literal["png", "jpeg", "webp", "same"]

STANDARD = "-"
"""What stands for standard input and output."""

_SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


@dataclass(frozen=True)
class Plan:
    """What is to be written.

    Attributes:
      jobs: the images and where their translations go.
      folder: where all of them go; None for one file or standard output.
      passed_over: what is in the folders of images and is not translated, for people.
      folders_passed_over: whether there are folders among them.
    """

    jobs: list[Job]
    folder: Path | None
    passed_over: list[str]
    folders_passed_over: bool = False


def plan_outputs(
    inputs: Sequence[str],
    output: str,
    *,
    form: OutputFormat | None = None,
    maps: Sequence[str] = (),
    recursive: bool = False,
) -> Plan:
    """Decides which file is written for which image.

    Args:
      inputs: images and folders of images, or ``-`` for standard input.
      output: a folder; for one image a file whose suffix tells a format, or ``-``.
      form: the format of the outputs; None for that of a file, else PNG. "same" is that of the
        image's suffix, and PNG where images cannot be written so.
      maps: names of the maps that are written too.
      recursive: whether the folders in folders of images are taken too.

    Returns:
      The plan.

    Raises:
      UserError: there is no image, two of them cannot be told apart by their names, an image would
        be overwritten, or the output is not what the inputs need.
    """
    if STANDARD in inputs and len(inputs) > 1:
        raise UserError("--input=- is one picture from standard input: give no other beside it")
    if output == STANDARD or (_names_file(output) and not Path(output).is_dir()):
        return _one_output(inputs, output, form, maps)
    if STANDARD in inputs:
        raise UserError(
            f"--input=- has no name to give a file in --output={output}: name the file, such as "
            f"--output={Path(output) / 'one.png'}, or take --output=- for standard output"
        )
    folder = Path(output)
    passed_over: list[str] = []
    folders_passed_over = False
    images: dict[tuple[Path, PurePath], None] = {}  # Of what is named twice one.
    for name in inputs:
        source = Path(name)
        if not source.is_dir():
            _check_there(source)
            images[source, PurePath(source.name)] = None
            continue
        if folder.is_dir() and folder.samefile(source):
            raise _overwrites(output)
        found = _Found(recursive)
        found.look_into(source, folder)
        passed_over += [f"{shown(source / each)}{why}" for each, why in found.passed_over]
        folders_passed_over |= found.folders_passed_over
        if not found.images:
            hint = "; --recursive looks into its folders" if found.folders_passed_over else ""
            raise UserError(
                f"{shown(source)} holds no image: put {', '.join(SUFFIXES)} files in it{hint}"
            )
        own = PurePath(Path(os.path.abspath(source)).name if len(inputs) > 1 else "")
        for each in sorted(found.images, key=lambda path: path.as_posix()):
            images[source / each, own / each] = None
    sources, names = zip(*images, strict=True)
    targets = _unique(sources, names, form or "png", maps)
    jobs = [Job(*pair) for pair in zip(sources, (folder / each for each in targets), strict=True)]
    _check_overwriting(jobs, maps, output)
    return Plan(jobs, folder, passed_over, folders_passed_over)


def _names_file(output: str) -> bool:
    return PurePath(output).suffix.lower() in SUFFIXES and not output.endswith(("/", os.sep))


def _one_output(
    inputs: Sequence[str], output: str, form: OutputFormat | None, maps: Sequence[str]
) -> Plan:
    """The plan for a file or standard output."""
    flag = f"--output={shown(output)}"
    if len(inputs) > 1 or Path(inputs[0]).is_dir():
        what = f"{len(inputs)} inputs" if len(inputs) > 1 else "a folder of pictures"
        raise UserError(f"{flag} is for one picture, and there is {what}: give a folder")
    source = None if inputs[0] == STANDARD else Path(inputs[0])
    if source is not None:
        _check_there(source)
    if output == STANDARD:
        if maps:
            raise UserError(f"--maps={','.join(maps)} needs files: give --output=FILE or a folder")
        return Plan([Job(source, None)], None, [])
    target = Path(output)
    suffix = target.suffix.lower()
    if suffix not in FORMAT_OF:
        raise UserError(
            f"{flag}: pictures are not written as {suffix}; take one of {', '.join(FORMAT_OF)}"
        )
    if form not in (None, FORMAT_OF[suffix]):
        raise UserError(f"{flag} and --format={form} contradict each other: leave one out")
    jobs = [Job(source, target)]
    _check_overwriting(jobs, maps, output)
    return Plan(jobs, None, [])


def _check_there(source: Path) -> None:
    if not source.exists():
        raise UserError(f"{shown(source)}: there is no such file; check the path")


class _Found:
    """What is in a folder of images; every folder is looked into once, however it is reached."""

    def __init__(self, recursive: bool) -> None:
        self._recursive = recursive
        self._seen: set[tuple[int, int]] = set()
        self.images: list[Path] = []
        self.passed_over: list[tuple[Path, str]] = []
        self.folders_passed_over = False

    def look_into(self, root: Path, output: Path) -> None:
        """Looks into a folder; hidden files and the folder of the outputs do not count.

        Args:
          root: the folder; what is found is told by the path from there.
          output: where the translations go.

        Raises:
          UserError: a folder cannot be listed.
        """
        if output.is_dir():
            self._seen.add(_identity(output))
        self._seen.add(_identity(root))
        # Links come last: a folder that is there itself keeps the name that it has there.
        folders, links = [Path()], collections.deque[Path]()
        while folders:
            current = folders.pop()
            for name in _listed(root / current):
                path = current / name
                if name.startswith("."):
                    continue
                if not os.path.isdir(root / path):
                    self._file(root, path)
                elif not self._recursive:
                    self.folders_passed_over = True
                    self.passed_over.append((path, "/"))
                elif os.path.islink(root / path):
                    links.append(path)
                else:
                    self._enter(root, path, folders)
            while links and not folders:
                self._enter(root, links.popleft(), folders)

    def _enter(self, root: Path, path: Path, folders: list[Path]) -> None:
        identity = _identity(root / path)
        if identity in self._seen:
            if os.path.islink(root / path):
                self.passed_over.append((path, " (a link to a folder that is taken already)"))
            return
        self._seen.add(identity)
        folders.append(path)

    def _file(self, root: Path, path: Path) -> None:
        if not os.path.exists(root / path):
            self.passed_over.append((path, " (a broken link)"))
        elif path.suffix.lower() in SUFFIXES and os.path.isfile(root / path):
            self.images.append(path)
        else:
            self.passed_over.append((path, ""))


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(
            f"{shown(folder)} cannot be listed ({error.strerror}); check who may read it"
        ) from error


def _identity(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def _unique(
    sources: Sequence[Path], names: Sequence[PurePath], form: OutputFormat, maps: Sequence[str]
) -> list[PurePath]:
    """Names for the translations, none of which is that of another file that is written.

    Args:
      sources: the images, for messages.
      names: their paths from the folder that they are found in.
      form: the format of the translations.
      maps: names of the maps that are written too.

    Raises:
      UserError: there are none, because images have the same name.
    """
    long: set[int] = set()  # Those that keep the image's suffix.
    while True:
        targets = [_target(name, form, place in long) for place, name in enumerate(names)]
        owners = collections.defaultdict[str, set[int]](set)
        for place, target in enumerate(targets):
            for file in Job(None, Path(target)).files(maps):
                owners[_key(file)].add(place)
        folders = {_key(each) for target in targets for each in target.parents}
        clashes = [group for key, group in owners.items() if len(group) > 1 or key in folders]
        clashing = {place for group in clashes for place in group}
        if clashing <= long:
            break
        long |= clashing
    if clashes:
        first, *others = sorted(clashes[0])
        if not others:
            raise UserError(
                f"{shown(sources[first])} would be written to {shown(targets[first])}, which is a "
                "folder of other outputs: rename it"
            )
        one, two = targets[first], targets[others[0]]
        where = (
            f"{shown(one)}"
            if one == two
            else f"{shown(one)} and {shown(two)}, which many file systems take for one name"
        )
        raise UserError(
            f"{shown(sources[first])} and {shown(sources[others[0]])} would be written to {where}: "
            "rename one, or translate them into two folders"
        )
    return targets


def _target(name: PurePath, form: OutputFormat, long: bool) -> PurePath:
    if form == "same":
        suffix = name.suffix if name.suffix.lower() in FORMAT_OF else ".png"
    else:
        suffix = _SUFFIXES[form]
    return name.with_name((name.name if long else name.stem) + suffix)


def _key(path: PurePath) -> str:
    """Equal for paths that a file system may take for one."""
    folded = unicodedata.normalize("NFD", path.as_posix()).casefold()
    return unicodedata.normalize("NFC", folded)


def _check_overwriting(jobs: Iterable[Job], maps: Sequence[str], output: str) -> None:
    jobs = list(jobs)
    inputs = {_identity(job.source) for job in jobs if job.source is not None}
    for job in jobs:
        for file in job.files(maps):
            if file.exists() and _identity(file) in inputs:
                raise _overwrites(output)


def _overwrites(output: str) -> UserError:
    return UserError(f"--output={shown(output)} would overwrite the inputs: choose another place")
