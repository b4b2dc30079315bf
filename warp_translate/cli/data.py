r"""``warp-translate data``: looks at a folder of images before anything is trained on it.

    warp-translate data --root=pictures
    warp-translate data --root=pictures --output=pictures_checked
    warp-translate data --root=pictures --list=pictures.csv --test_share=0.2 --group='(\d+)_'

Every image is read once: how many there are by split and domain, their sizes and kinds, what cannot
be read, what is there twice and perhaps in train and test, which data set it is, and the command
that trains on it. ``--output`` gets ``data.json``, a sheet of examples, and ``data.sqlite``, all
that is known of every file: with it the same command goes on where it was cut short, and looks at
what is new or has changed only.

``--list`` writes what is good into a CSV file, see ``data/lists.py``, that is trained on in place
of the folder: without what cannot be read or is much smaller than the training images, without
pairs that are none, and without images of train that are tested with as well. Where there is no
test split it makes one by what the images show, so that copies stay together and an image keeps its
split whatever it is called and is added; or by a part of the paths, ``--group``, where train loses
the copies of what is tested with. ``--root`` takes such a list, too, and the folder of a version
that TFDS has prepared, whose records are read.

What training would refuse before its first step is an error here, found by the same functions.
"""

import difflib
import json
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from warp_translate import storage
from warp_translate.cli import program
from warp_translate.cli.path_flag import define_path
from warp_translate.data import folders, names, tfds_folder
from warp_translate.data.fitting import Fit, checked, fits, remedy
from warp_translate.data.inventory import Alike, Inventory
from warp_translate.data.listing import Shares, write_list
from warp_translate.errors import UserError, shown
from warp_translate.evaluation.sheet import write_sheet
from warp_translate.experiment import eval_setup, experiment_file
from warp_translate.image_io import SUFFIXES, flatten, read_image
from warp_translate.progress import Headway
from warp_translate.serving.bundle import check_name
from warp_translate.serving.latency_model import find_device

_ROOT = define_path("root", "The folder of images, or a list of them.")
_READERS = flags.DEFINE_integer(
    "readers", None, "Processes that read images; one for each core by default, 0 for none."
)

_LIST = define_path("list", "CSV file to write: all that is good, with its splits.")
_DATA_NAME = flags.DEFINE_string(
    "data_name", None, "Which of the data sets that fit the list is of; the likeliest by default."
)
_TEST_SHARE = flags.DEFINE_float("test_share", 0.1, "Of the list, where there is no test split.")
_VAL_SHARE = flags.DEFINE_float("val_share", 0.0, "Of the list, likewise.")
_GROUP = flags.DEFINE_string(
    "group",
    None,
    "Regular expression for paths below the root; images for which its first group, or all of it, "
    "is equal are in one split.",
)

_SMALLEST = flags.DEFINE_integer(
    "smallest",
    None,
    "Images whose shorter side has fewer pixels are left out of the list; by default half the side "
    "of the training images.",
)

_MOST_PROBLEMS, _MOST_WRITTEN = 10, 10_000
_ROWS, _MOST_COLUMNS, _CELL = 5, 8, 128
_SIDES = (256, 128, 64, 32)  # Of training images that the command names.
_BALANCE = 10.0  # How many times more images a part may have than another of its split.


def main(argv: Sequence[str]) -> None:
    """Looks and reports; what keeps from training is an error at the end."""
    if len(argv) > 1:
        raise UserError(f"data takes flags only, got {' '.join(argv[1:])!r}: give --root=FOLDER")
    if _ROOT.value is None:
        raise UserError("--root=FOLDER is missing: the folder of images")
    readers = find_device().cores if _READERS.value is None else _READERS.value
    if readers < 0:
        raise UserError(f"--readers={readers} must be 0 or more")
    shares = _shares()
    if _LIST.value is not None and not folders.is_list(_LIST.value):
        raise UserError(f"--list={_LIST.value} must be the name of a .csv file")
    sets = (*names.PAIRED, *names.UNPAIRED, names.LABELLED)
    if _DATA_NAME.value is not None and _DATA_NAME.value not in sets:
        close = difflib.get_close_matches(_DATA_NAME.value, sets, n=1, cutoff=0.0)[0]
        raise UserError(f"--data_name={_DATA_NAME.value} is no data set; did you mean {close}?")
    if _SMALLEST.value is not None and _SMALLEST.value < 1:
        raise UserError(f"--smallest={_SMALLEST.value} must be 1 or more")
    if _LIST.value is None:
        for flag in (_DATA_NAME, _TEST_SHARE, _VAL_SHARE, _GROUP, _SMALLEST):
            if flag.value != flag.default:
                raise UserError(
                    f"--{flag.name}={flag.value} is about a list: give --list=FILE.csv as well"
                )
    root = storage.disk_path(_ROOT.value, "--root")
    if tfds_folder.is_prepared(root):
        _look_at_prepared(_ROOT.value)
        return
    folder = (
        None
        if program.OUTPUT.value is None
        else _made(storage.disk_path(program.OUTPUT.value, "--output"))
    )
    inventory = Inventory(root, ":memory:" if folder is None else folder / "data.sqlite")
    try:
        if not inventory.scan():
            others = _counted(inventory.passed_over().items())
            raise UserError(
                f"{inventory.source} holds no image, {', '.join(SUFFIXES)}, but "
                f"{others or 'nothing'}; convert what is there, or name another --root"
            )
        _look(inventory, readers)
        ways = [_with_further_obstacles(fit) for fit in fits(inventory)]
        for line in _report(inventory, ways):
            print(shown(line))
        if folder is not None:
            _write(folder, inventory, ways)
        if _LIST.value is not None:
            _write_list(storage.disk_path(_LIST.value, "--list"), inventory, ways, shares)
        else:
            _judge(inventory, ways)
    finally:
        inventory.close()


def _look_at_prepared(root: str) -> None:
    """Reads and reports a set that was prepared with TFDS, which is read as it is."""
    for flag, value in (("output", program.OUTPUT.value), ("list", _LIST.value)):
        if value is not None:
            raise UserError(
                f"--{flag}={value} is for files, but {root} is a set that TFDS has prepared: leave "
                "it out"
            )
    builder = tfds_folder.open_tfds_folder(root)
    total = sum(split.num_examples for split in builder.info.splits.values())
    headway = Headway(total, lambda line: print(line, file=sys.stderr), verb="read", noun="records")
    found = tfds_folder.look(builder, headway.advance, most_named=_MOST_PROBLEMS)
    paired = tfds_folder.held_features(builder) == tfds_folder.PAIR
    print(f"{builder.info.full_name}, prepared with TFDS: {total} records")
    for split in found:
        sides = ""
        if split.widths and split.heights:
            widths, heights = split.widths, split.heights
            sides = (
                f"; widths {widths[0]} to {widths[2]}, median {widths[1]}; heights {heights[0]} to "
                f"{heights[2]}, median {heights[1]}"
            )
        lost = f", {split.lost} unreadable" if split.lost else ""
        print(f"  {split.name}  {split.records}{lost}{sides}")
        for problem in split.unreadable:
            print(f"  unreadable: {problem}")
    config = "paired" if paired else "cycle"
    fit = Fit(names.TFDS_FOLDER, "", (f"experiments/{config}.py",))
    print(f"fits {fit.name}: {'pairs' if paired else 'two domains'}")
    print(f"  {_command(Path(root).expanduser().resolve(), fit)}")
    if lost_records := sum(split.lost for split in found):
        raise UserError(
            f"{lost_records} of the {total} records of {root} cannot be read: remove the folder "
            "and prepare it again"
        )


def _shares() -> Shares:
    test, val = _TEST_SHARE.value, _VAL_SHARE.value
    if not 0 < test < 1 or not 0 <= val < 1 - test:
        raise UserError(
            f"--test_share={test:g} and --val_share={val:g}: give shares that leave some images to "
            "train with, and some to test with"
        )
    if _GROUP.value is None:
        return Shares(test, val)
    try:
        pattern = re.compile(_GROUP.value)
    except re.error as error:
        raise UserError(f"--group={_GROUP.value} is no regular expression: {error}") from error

    def group_of(path: Path) -> str:
        found = pattern.search(path.as_posix())
        if found is None:
            raise UserError(f"--group={_GROUP.value} finds nothing in {path}: widen it")
        return (found.group(1) if pattern.groups else found.group()) or ""

    return Shares(test, val, group_of)


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be made ({error.strerror or error}): choose another --output"
        ) from error
    return folder


def _look(inventory: Inventory, readers: int) -> None:
    ahead = inventory.ahead()
    headway = Headway(ahead, lambda line: print(line, file=sys.stderr), verb="looked at")
    # For a few images a process takes longer to start than to do them.
    inventory.look(readers if ahead > 100 * readers else 0, headway.advance)


def _with_further_obstacles(fit: Fit) -> Fit:
    """Adds what training finds that knows the experiment as well."""
    obstacles, hint = [], ""
    try:
        if fit.name == names.LABELLED:
            for domain in fit.arguments[1].partition("=")[2].split(","):
                check_name(domain, "the name of the domain")
        elif fit.tested:
            path = fit.arguments[0]
            config = experiment_file.configuration(experiment_file.load(path), path)
            hint = "; --list with a larger --test_share holds out more"
            eval_setup.check_counts(config, fit.tested)
    except UserError as error:
        obstacles.append(f"{error}{hint}")
    return replace(fit, obstacles=(*fit.obstacles, *obstacles))


def _report(inventory: Inventory, ways: list[Fit]) -> list[str]:
    parts = inventory.parts()
    readable = sum(part.readable for part in parts)
    megabytes = sum(part.bytes for part in parts) / 1e6
    lines = [f"{inventory.source}: {inventory.count()} images, {megabytes:.1f} MB"]
    width = max(len(part.name) for part in parts)
    for part in parts:
        lost = part.files - part.readable
        lines.append(f"  {part.name:<{width}}  {part.files}{f', {lost} unreadable' * bool(lost)}")
    if sizes := inventory.sizes():
        most = ", ".join(f"{w}x{h} ({count})" for w, h, count in sizes.most)
        lines.append(
            f"sizes: {most}; widths {sizes.width[0]} to {sizes.width[2]}, median "
            f"{sizes.width[1]}; heights {sizes.height[0]} to {sizes.height[2]}, median "
            f"{sizes.height[1]}"
        )
    if readable:
        kinds = ((f"{kind} {mode}", count) for kind, mode, count in inventory.kinds())
        lines.append(f"kinds: {_counted(kinds)}")
    if others := inventory.passed_over():
        lines.append(f"passed over: {_counted(others.items())}")
    for title, alike in (("equal", inventory.same_pixels()), ("like", inventory.same_look())):
        if alike.groups:
            lines.append(_in_words(title, alike))
    lines += [f"balance: {line}" for line in _imbalances(inventory)]
    lines += _small(inventory)
    count, problems = inventory.problems(_MOST_PROBLEMS)
    lines += [f"unreadable: {path}: {problem}" for path, problem in problems]
    if count > len(problems):
        lines.append(f"unreadable: and {count - len(problems)} more")
    for fit in ways:
        lines.append(f"fits {fit.name}: {fit.title}")
        lines += [f"  but {obstacle}" for obstacle in fit.obstacles]
        lines.append(f"  {_command(inventory.source, fit, _side(inventory))}")
    if not ways:
        lines += ["fits no data set", *remedy(inventory).split("\n")]
    return lines


def _small(inventory: Inventory) -> list[str]:
    """Images that training enlarges, and those that are so small that lists leave them out."""
    side, smallest = _side(inventory), _smallest(inventory)
    count, examples = inventory.small(side)
    if not count:
        return []
    named = ", ".join(f"{path} ({width}x{height})" for path, width, height in examples)
    left_out, _ = inventory.small(smallest)
    return [
        f"small: {count} images have a shorter side below {side} pixels, and training enlarges "
        f"them: {named}; --list leaves out {left_out} of them, below {smallest} (--smallest)"
    ]


def _side(inventory: Inventory) -> int:
    """The side of the training images: the usual one that no more than half of them are below."""
    median = inventory.median_side()
    return next((side for side in _SIDES if side <= median), _SIDES[-1])


def _smallest(inventory: Inventory) -> int:
    """The shorter side below which lists leave images out."""
    if _SMALLEST.value is not None:
        return _SMALLEST.value
    # Of a set that is tiny altogether, half of what is usual in it.
    return max(1, min(_side(inventory), inventory.median_side()) // 2)


def _in_words(title: str, alike: Alike) -> str:
    across = f", {alike.across} of them in more than one split" if alike.across else ""
    examples = ", ".join(alike.example)
    what = "pixel by pixel" if title == "equal" else "of the same look in 8 x 8 cells"
    return f"{title}: {alike.groups} pictures are there several times {what}{across}: {examples}"


def _imbalances(inventory: Inventory) -> list[str]:
    """Parts of one split that have many times more images than another."""
    lines = []
    by_split: dict[str, list[tuple[int, str]]] = {}
    for part in inventory.parts():
        by_split.setdefault(part.split, []).append((part.readable, part.name))
    for found in by_split.values():
        (few, less), (many, more) = min(found), max(found)
        if few and many > _BALANCE * few:
            lines.append(f"{more} has {many / few:.0f} times the images of {less}")
    return lines


def _judge(inventory: Inventory, ways: list[Fit]) -> None:
    """Raises a UserError where what the images are most likely cannot be trained on as it is."""
    count, problems = inventory.problems(1)
    if count:
        raise UserError(
            f"{count} images of {inventory.source} cannot be read, {problems[0][0]} for instance: "
            "replace or remove them, or leave them out with --list=FILE.csv"
        )
    if not ways:
        raise UserError(
            f"{inventory.source} is laid out as no data set: see above how it should be"
        )
    if ways[0].obstacles:
        raise UserError(f"{inventory.source}: {ways[0].obstacles[0]}")


def _command(root: Path, fit: Fit, side: int = _SIDES[0]) -> str:
    config, *fields = fit.arguments
    if side != _SIDES[0]:
        config += f":size={side}"
    # A set of TFDS lies in a folder that is called by its version.
    name = root.parent.name if fit.name == names.TFDS_FOLDER else root.stem
    words = [
        *("warp-translate", "train", f"--config={config}", f"--workdir=runs/{name}"),
        *(f"--config.data.name={fit.name}", f"--config.data.root={root}"),
        *(f"--config.{field}" for field in fields),
    ]
    return shlex.join(words)


def _counted(counts: Any) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts)


def _write(folder: Path, inventory: Inventory, ways: list[Fit]) -> None:
    count, problems = inventory.problems(_MOST_WRITTEN)
    sizes = inventory.sizes()
    side = _side(inventory)
    small, smallest = inventory.small(side)
    found = {
        "root": str(inventory.source),
        "images": inventory.count(),
        "parts": [asdict(part) for part in inventory.parts()],
        "sizes": sizes and asdict(sizes),
        "kinds": [list(kind) for kind in inventory.kinds()],
        "passed_over": inventory.passed_over(),
        "unreadable": {"count": count, "files": [list(each) for each in problems]},
        "small": {"below": side, "count": small, "smallest": [list(each) for each in smallest]},
        "equal": asdict(inventory.same_pixels()),
        "alike": asdict(inventory.same_look()),
        "fits": [asdict(fit) | {"command": _command(inventory.source, fit, side)} for fit in ways],
    }
    try:
        storage.write_whole(folder / "data.json", json.dumps(found, indent=2) + "\n")
        _write_sheet(folder / "data.png", inventory)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}): choose another --output"
        ) from error
    print(shown(f"written: {folder}/data.json, data.sqlite and, with examples, data.png"))


def _write_list(path: Path, inventory: Inventory, ways: list[Fit], shares: Shares) -> None:
    """Writes what is good, and says how to train on it."""
    if not ways:
        raise UserError(
            f"{inventory.source} is laid out as no data set: see above how it should be"
        )
    chosen = [fit for fit in ways if _DATA_NAME.value in (None, fit.name)]
    if not chosen:
        raise UserError(
            f"--data_name={_DATA_NAME.value} does not fit {inventory.source}: it fits "
            f"{' and '.join(fit.name for fit in ways)}"
        )
    path = path.expanduser().resolve()
    try:
        counts = write_list(path, inventory, chosen[0], shares, _smallest(inventory))
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}): choose another --list"
        ) from error
    listed = ", ".join(f"{count} to {split}" for split, count in sorted(counts.items()))
    print(shown(f"written: {path}, {listed}"))
    print(shown(f"  {_command(path, chosen[0], _side(inventory))}"))
    listed_fit = _with_further_obstacles(checked(replace(chosen[0], obstacles=()), path))
    if listed_fit.obstacles:
        raise UserError(f"{path} is written, but {listed_fit.obstacles[0]}")


def _write_sheet(path: Path, inventory: Inventory) -> None:
    """A column for each part."""
    examples = {
        part.name: [flatten(read_image(each)) for each in inventory.examples(part.name, _ROWS)]
        for part in [part for part in inventory.parts() if part.readable][:_MOST_COLUMNS]
    }
    if not examples:
        return
    blank = np.full((_CELL, _CELL, 3), 255, np.uint8)
    rows = [
        [found[row] if row < len(found) else blank for found in examples.values()]
        for row in range(max(map(len, examples.values())))
    ]
    write_sheet(
        *(path, rows, list(examples)),
        cell=_CELL,
        title=shown(f"{inventory.source.name}: {inventory.count()} images"),
    )


def run() -> None:
    """Entry point of the command."""
    program.run(main, takes=(program.OUTPUT,))


if __name__ == "__main__":
    run()
