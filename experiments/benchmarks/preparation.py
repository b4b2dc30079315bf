"""Pictures a second of preparing a folder, on one core and on all, and what a million files take.

    python -m experiments.benchmarks.preparation --root=FOLDER
    python -m experiments.benchmarks.preparation --files=1000000 --scratch=FOLDER

Every picture below ``--root`` is prepared as `train` does it the first time, by one thread and by
as many as there are cores, in turns; the first turn is not timed, so the files come from memory.
``--files`` makes as many pictures of 16 x 16 pixels, JPEG and PNG in turns, and goes the whole way
with them: finding them, `warp-translate data`, preparing them, and opening what is prepared. Each
step is a process of its own; the kernel tells the peak of its memory, without that of the readers
of `data`, which are processes as well.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from PIL import Image

from experiments.benchmarks import measure
from warp_translate.cpu_count import allowed_cores
from warp_translate.data.builders import FILE_FORMAT, UnpairedFolder, folder_config
from warp_translate.data.folders import Layout
from warp_translate.data.preparation import prepare
from warp_translate.image_io import list_images

_ROOT = flags.DEFINE_string("root", None, "Folder of pictures, searched through.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Turns that are timed.")
_FILES = flags.DEFINE_integer("files", 0, "Tiny pictures to make and to go all the way with.")
_SCRATCH = flags.DEFINE_string(
    "scratch", None, "Folder for what is made, on the disk to be measured; temporary by default."
)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the tables.")

_SIDE = 16
_IN_A_FOLDER = 1000
# Each is a program; what it ends with is the peak of its memory, in KiB.
_BEGIN = """
import atexit, pathlib, re, sys
status = pathlib.Path("/proc/self/status")
atexit.register(lambda: print(re.search(r"VmHWM:\\s*(\\d+)", status.read_text())[1]))
"""
_STEPS = {
    "scan": "from warp_translate.data.folders import scan_domains\nscan_domains({root!r})",
    "inventory": (
        "from warp_translate.cli.main import main\n"
        "sys.argv[1:] = ['data', '--root=' + {root!r}, '--output=' + {output!r}]\nmain()"
    ),
    "prepare": (
        "from warp_translate.data.sources import open_domains\n"
        "open_domains('unpaired_folder', {data!r}, root={root!r})"
    ),
}


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    if len(argv) > 1 or (_ROOT.value is None) == (not _FILES.value):
        raise app.UsageError("give --root or --files, and flags only")
    about = measure.environment("tensorflow-datasets", "array-record", "pillow")
    with tempfile.TemporaryDirectory(dir=_SCRATCH.value) as scratch:
        folder = Path(scratch)
        rows = _photographs(folder) if _ROOT.value else _all_the_way(folder)
    measure.publish(about, rows, _OUTPUT.value)


def _photographs(folder: Path) -> list[dict[str, Any]]:
    """One row for each number of threads."""
    paths = tuple(list_images(_ROOT.value, recursive=True))
    examples = tuple((path,) for path in paths)
    config = folder_config(Layout(Path(_ROOT.value).resolve(), {"train": examples}, False))
    data = folder / "data"
    cores = allowed_cores()

    def build() -> UnpairedFolder:
        return UnpairedFolder(config=config, data_dir=data, file_format=FILE_FORMAT)

    def with_threads(number: int) -> Callable[[], object]:
        return lambda: prepare(build, "the folder", data, "fix them", workers=number).name

    def clear() -> None:
        shutil.rmtree(data, ignore_errors=True)

    functions = {str(number): with_threads(number) for number in sorted({1, cores})}
    seconds = measure.take_turns(
        functions, _REPEATS.value, prepare=dict.fromkeys(functions, clear), title="prepare"
    )
    megabytes = sum(path.stat().st_size for path in paths) / 1e6
    return [
        {
            "threads": name,
            "pictures": len(paths),
            "MB": round(megabytes, 1),
            "pictures/s": measure.ratio([len(paths)] * len(turns), turns),
            "times one": measure.ratio(seconds["1"], turns),
        }
        for name, turns in seconds.items()
    ]


def _all_the_way(folder: Path) -> list[dict[str, Any]]:
    """One row for each step."""
    _make(folder / "root", _FILES.value)
    names = {"root": folder / "root", "output": folder / "looked_at", "data": folder / "data"}
    rows = []
    for step, code in (*_STEPS.items(), ("open", _STEPS["prepare"])):
        text = code.format(**{name: os.fspath(path) for name, path in names.items()})
        begin = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", _BEGIN + text], stdout=subprocess.PIPE, text=True, check=True
        )
        took = time.perf_counter() - begin
        rows.append(
            {
                "step": step,
                "files": _FILES.value,
                "seconds": took,
                "files/s": _FILES.value / took,
                "peak MiB": int(done.stdout.split()[-1]) / 2**10,
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def _make(root: Path, count: int) -> None:
    """Noise, so that no two are alike; nine in ten to train on."""
    chance = np.random.default_rng(0)
    for number in range(count):
        split = f"{'test' if number % 10 == 9 else 'train'}{'AB'[number // 10 % 2]}"
        folder = root / split / f"{number // _IN_A_FOLDER:04}"
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(chance.integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8))
        picture.save(folder / f"{number:07}.{('jpg', 'png')[number % 2]}")


if __name__ == "__main__":
    app.run(main)
