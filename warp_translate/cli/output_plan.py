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

from warp_translate import file_tree
from warp_translate.errors import UserError, shown
from warp_translate.image_io import FORMAT_OF, SUFFIXES
from warp_translate.serving.batch_translate import Job

OutputFormat = Literal["png", "jpeg", "webp", "same"]

STANDARD = "-"
"""What stands for standard input and output."""

_NOTES = {
    "folder": "/",
    "broken": " (a broken link)",
    "repeated": " (a link to a folder that is taken already)",
}
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
        found, others, with_folders = _look_into(source, folder, recursive)
        passed_over += others
        folders_passed_over |= with_folders
        if not found:
            hint = "; --recursive looks into its folders" if with_folders else ""
            raise UserError(
                f"{shown(source)} holds no image: put {', '.join(SUFFIXES)} files in it{hint}"
            )
        own = PurePath(Path(os.path.abspath(source)).name if len(inputs) > 1 else "")
        for each in found:
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


def _look_into(root: Path, output: Path, recursive: bool) -> tuple[list[Path], list[str], bool]:
    """Searches a folder of images, but for the folder of the outputs.

    Args:
      root: the folder.
      output: folder of the translations.
      recursive: searches the folders below, too.

    Returns:
      The images, relative to the root; a line about each other file; and whether folders are among
      these.

    Raises:
      UserError: a folder cannot be listed.
    """
    images, passed_over = [], []
    try:
        skip = file_tree.identity(output) if output.is_dir() else None
        for entry, kind in file_tree.walk(root, recursive, once=True, skip=skip):
            path = Path(entry.path).relative_to(root)
            if kind == "file" and path.suffix.lower() in SUFFIXES:
                images.append(path)
            else:
                passed_over.append((path, kind))
    except OSError as error:
        raise UserError(
            f"{shown(error.filename)} cannot be listed ({error.strerror}); check its permissions"
        ) from error
    lines = [f"{shown(root / path)}{_NOTES.get(kind, '')}" for path, kind in sorted(passed_over)]
    return (
        sorted(images, key=Path.as_posix),
        lines,
        any(kind == "folder" for _, kind in passed_over),
    )


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
    inputs = {file_tree.identity(job.source) for job in jobs if job.source is not None}
    for job in jobs:
        for file in job.files(maps):
            if file.exists() and file_tree.identity(file) in inputs:
                raise _overwrites(output)


def _overwrites(output: str) -> UserError:
    return UserError(f"--output={shown(output)} would overwrite the inputs: choose another place")
