"""Decides which file ``translate`` writes for which image, before anything is read or written.

An output has the name of its image, with the suffix of its format. If two images would get the same
output, or a map the name of another image's output, these images keep their suffix as well:
``a.jpg`` and ``a.png`` become ``a.jpg.png`` and ``a.png.png``. Names that differ only in case or
Unicode form are equal, as they are on many file systems.
"""

import collections
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from warp_translate import file_tree
from warp_translate.errors import UserError, shown
from warp_translate.image_io import FORMAT_OF, SUFFIXES
from warp_translate.serving.batch_translate import Job

OutputFormat = Literal["png", "jpeg", "webp", "same"]

STANDARD = "-"
"""Standard input or output."""

_REASONS = {
    "folder": "/",
    "broken": " (a broken link)",
    "repeated": " (a link to a folder that is included already)",
}

_SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "mp4": ".mp4"}


@dataclass(frozen=True)
class Kind:
    """A kind of inputs."""

    noun: str
    suffixes: Sequence[str]  # Of inputs, in lower case.
    written: Sequence[str]  # Of outputs.
    form: str  # Of outputs in a folder.


IMAGES = Kind("image", SUFFIXES, tuple(FORMAT_OF), "png")


@dataclass(frozen=True)
class Plan:
    """The files to write.

    Attributes:
      jobs: the images and their outputs.
      folder: of all outputs; None for one file or standard output.
      passed_over: files and folders beside the images that are not translated, as text.
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
    kind: Kind = IMAGES,
) -> Plan:
    """Decides which file is written for which image.

    Args:
      inputs: images and folders of images, or ``-`` for standard input.
      output: a folder; for one image a file with the suffix of a format, or ``-``.
      form: format of the outputs; None for that of a file, else PNG. "same" is that of the image's
        suffix, or PNG if images cannot be written in it.
      maps: names of the maps to write.
      recursive: whether to include subfolders.
      kind: of the inputs.

    Returns:
      The plan.

    Raises:
      UserError: there is no image, names are not distinct, an image would be overwritten, or the
        output does not suit the inputs.
    """
    if STANDARD in inputs and len(inputs) > 1:
        raise UserError("--input=- is one image from standard input: omit the other inputs")
    names_file = PurePath(output).suffix.lower() in kind.suffixes and not output.endswith(
        ("/", os.sep)
    )
    if output == STANDARD and kind is not IMAGES:
        raise UserError(f"--output=- is for one image: name the file of the {kind.noun}")
    if output == STANDARD or (names_file and not Path(output).is_dir()):
        return _plan_one(inputs, output, form, maps, kind)
    folder = Path(output)
    if STANDARD in inputs:
        raise UserError(
            f"--input=- has no name for a file in --output={output}: name the file, such as "
            f"--output={folder / 'one.png'}, or use --output=- for standard output"
        )
    passed_over: list[str] = []
    has_folders = False
    images: dict[tuple[Path, PurePath], None] = {}  # Without duplicates.
    for name in inputs:
        source = Path(name)
        if not source.is_dir():
            _check_exists(source)
            images[source, PurePath(source.name)] = None
            continue
        if folder.is_dir() and folder.samefile(source):
            raise _overwrites(output)
        found, others, contains_folders = _find(source, folder, recursive, kind.suffixes)
        passed_over += [f"{shown(source / each)}{why}" for each, why in others]
        has_folders |= contains_folders
        if not found:
            hint = "; --recursive includes its folders" if contains_folders else ""
            raise UserError(
                f"{shown(source)} holds no {kind.noun}: put {', '.join(kind.suffixes)} files in "
                f"it{hint}"
            )
        own = PurePath(Path(os.path.abspath(source)).name if len(inputs) > 1 else "")
        for each in sorted(found, key=lambda path: path.as_posix()):
            images[source / each, own / each] = None
    sources, names = zip(*images, strict=True)
    targets = _distinct(sources, names, form or kind.form, maps)
    jobs = [Job(source, folder / each) for source, each in zip(sources, targets, strict=True)]
    _check_overwriting(jobs, maps, output)
    return Plan(jobs, folder, passed_over, has_folders)


def _plan_one(
    inputs: Sequence[str],
    output: str,
    form: OutputFormat | None,
    maps: Sequence[str],
    kind: Kind,
) -> Plan:
    """Returns the plan for a file or standard output."""
    flag = f"--output={shown(output)}"
    if len(inputs) > 1 or Path(inputs[0]).is_dir():
        given = f"{len(inputs)} inputs" if len(inputs) > 1 else f"a folder of {kind.noun}s"
        raise UserError(f"{flag} is for one {kind.noun}, not for {given}: give a folder")
    source = None if inputs[0] == STANDARD else Path(inputs[0])
    if source is not None:
        _check_exists(source)
    if output == STANDARD:
        if maps:
            raise UserError(f"--maps={','.join(maps)} needs files: give --output=FILE or a folder")
        return Plan([Job(source, None)], None, [])
    suffix = PurePath(output).suffix.lower()
    if suffix not in kind.written:
        raise UserError(f"{flag}: cannot write {suffix}; use one of {', '.join(kind.written)}")
    if form not in (None, FORMAT_OF.get(suffix)):
        raise UserError(f"{flag} and --format={form} contradict each other: omit one")
    jobs = [Job(source, Path(output))]
    _check_overwriting(jobs, maps, output)
    return Plan(jobs, None, [])


def _check_exists(source: Path) -> None:
    if not source.exists():
        raise UserError(f"{shown(source)}: there is no such file; check the path")


def _find(
    root: Path, output: Path, recursive: bool, suffixes: Sequence[str]
) -> tuple[list[Path], list[tuple[Path, str]], bool]:
    """Returns the images, other entries with a reason, and whether any of these is a folder.

    Visits each folder once, however many links lead to it, and neither hidden entries nor the
    folder of the outputs.
    """
    images, others = [], []
    try:
        skip = file_tree.identity(output) if output.is_dir() else None
        for entry, kind in file_tree.walk(root, recursive, once=True, skip=skip):
            path = Path(entry.path).relative_to(root)
            if kind == "file" and path.suffix.lower() in suffixes:
                images.append(path)
            else:
                others.append((path, _REASONS.get(kind, "")))
    except OSError as error:
        raise UserError(
            f"{shown(error.filename)} cannot be listed ({error.strerror}); check its permissions"
        ) from error
    return images, sorted(others), any(reason == _REASONS["folder"] for _, reason in others)


def _distinct(
    sources: Sequence[Path], names: Sequence[PurePath], form: str, maps: Sequence[str]
) -> list[PurePath]:
    """Returns names of outputs that are distinct from each other and from maps.

    Args:
      sources: the images, for messages.
      names: their paths relative to the folder of the outputs.
      form: format of the outputs.
      maps: names of the maps to write.

    Raises:
      UserError: there are none, because images have the same name.
    """
    long: set[int] = set()  # Images that keep their suffix.
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
    if not clashes:
        return targets
    first, *others = sorted(clashes[0])
    if not others:
        raise UserError(
            f"{shown(sources[first])} would be written to {shown(targets[first])}, which is a "
            "folder of other outputs: rename it"
        )
    one, two = targets[first], targets[others[0]]
    where = shown(one)
    if one != two:
        where += f" and {shown(two)}, which are equal on many file systems"
    raise UserError(
        f"{shown(sources[first])} and {shown(sources[others[0]])} would be written to {where}: "
        "rename one, or translate them into two folders"
    )


def _target(name: PurePath, form: str, long: bool) -> PurePath:
    if form == "same":
        suffix = name.suffix if name.suffix.lower() in FORMAT_OF else ".png"
    else:
        suffix = _SUFFIXES[form]
    return name.with_name((name.name if long else name.stem) + suffix)


def _key(path: PurePath) -> str:
    """Returns a key that is equal for names that a file system may not distinguish."""
    folded = unicodedata.normalize("NFD", path.as_posix()).casefold()
    return unicodedata.normalize("NFC", folded)


def _check_overwriting(jobs: Sequence[Job], maps: Sequence[str], output: str) -> None:
    inputs = {file_tree.identity(job.source) for job in jobs if job.source is not None}
    for job in jobs:
        for file in job.files(maps):
            if file.exists() and file_tree.identity(file) in inputs:
                raise _overwrites(output)


def _overwrites(output: str) -> UserError:
    return UserError(f"--output={shown(output)} would overwrite the inputs: choose another place")
