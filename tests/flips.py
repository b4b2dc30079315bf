"""Measures what damaged files do: flips bits of all that is kept, one at a time, and reads it.

    python tests/flips.py --output=flips.md
    python tests/flips.py --flips=100 --seed=1 --only bundle cache

A tiny run is trained, exported and measured, and its pictures are prepared and looked through. Then
random bits of these files are flipped, each in a copy that is read as the commands read it, in a
fork of this process. A flip counts as

    detected        an error or a warning names the file, or a folder that it lies in
    harmless        what comes out is the same, byte for byte
    crashed         a traceback, a signal, or no end
    SILENTLY WRONG  something else comes out, and nothing was said

The result is a Markdown table by kind of file, and a line for each flip of the last two kinds. The
exit status is 0 if there was none of these, 1 if there was, and 2 if the run itself failed.
"""

import argparse
import collections
import dataclasses
import hashlib
import io
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OUTCOMES = ("detected", "harmless", "crashed", "SILENTLY WRONG")


class HarnessError(Exception):
    """The run itself failed, and nothing is known of the flips."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """Files that are read together.

    Attributes:
      name: what they are.
      folder: where they lie; each flip is in a copy beside it.
      readers: what reads them, by name: given the folder, all that comes out.
    """

    name: str
    folder: Path
    readers: dict[str, Callable[[Path], list[Any]]]


@dataclasses.dataclass(frozen=True)
class Done:
    """How a reader ended.

    Attributes:
      code: its status; None where it did not end.
      said: what it printed to stderr.
      result: a checksum of what came out; "" where nothing did.
    """

    code: int | None
    said: str
    result: str


def settings(work: Path) -> Any:
    """The experiment, whose sets are prepared in the folder ``prepared``."""
    from experiments import paired

    config = paired.get_config("runlocal")
    config.data.update(name="paired_folder", root=str(work / "pictures"))
    config.data.dir = str(work / "prepared")
    config.generator.width = config.discriminator.width = 4
    return config


def make(work: Path) -> None:
    """Makes the pictures, the run with its prepared set, and all that follows from it."""
    import numpy as np
    from absl import flags
    from absl.testing import flagsaver
    from PIL import Image

    from warp_translate.cli import export as export_command
    from warp_translate.experiment import build, export, train
    from warp_translate.serving import bundle, latency_model
    from warp_translate.serving import export as serving_export
    from warp_translate.serving.engine import OnnxEngine

    chance = np.random.default_rng(0)
    for part, count in (("trainA", 12), ("trainB", 12), ("testA", 4), ("testB", 4)):
        (work / "pictures" / part).mkdir(parents=True)
        for number in range(count):
            pixels = chance.integers(0, 256, (8, 8, 3), np.uint8)
            picture = Image.fromarray(pixels).resize((32, 32))
            picture.save(work / "pictures" / part / f"{number}.png")
    build.step_flops = lambda *_: None  # A step would be traced once more for it.
    train.train(settings(work), str(work / "run"))
    export.PARITY_IMAGES = 2
    serving_export.PARITY_SIZES = ((64, 64), (65, 47), (33, 70))
    flags.FLAGS(["flips"])
    flagged = {"workdir": str(work / "run"), "output": str(work / "bundles"), "factors": [2]}
    with flagsaver.flagsaver(source="a", target="b", bundle_name="bundle", **flagged):
        export_command.main(["export"])
    (work / "bundles" / "bundle").rename(work / "bundle")
    model = latency_model.calibrate(
        OnnxEngine(bundle.read(work / "bundle")), sizes=((16, 16), (32, 48))
    )
    (work / "cache").mkdir()
    if not latency_model.save(work / "cache" / "times.json", model):
        raise HarnessError("the calibration cannot be written")


def resumed(run: Path) -> list[Any]:
    """The whole state with which a training goes on; here it is at its end."""
    import jax

    from warp_translate.experiment import build, train

    build.step_flops = lambda config, state: None
    train.loop.run = lambda state, *_, **__: state  # From an older step it would go on with steps.
    return jax.tree.leaves(jax.device_get(train.train(settings(run.parent), str(run))))


def restored(run: Path) -> list[Any]:
    """What translate, evaluate and export take from a run."""
    import jax

    from warp_translate.experiment import restore

    with restore.open_run_in(str(run)) as opened:
        found = opened.restore(opened.step("best"))
    params = jax.tree.leaves(jax.device_get(found.params))
    return [found.step, found.figures, found.config.to_json(), *params]


def reported(run: Path) -> list[Any]:
    """What a report shows of a run."""
    from warp_translate.evaluation import runs

    return [repr(runs.read([run]))]


def translated(folder: Path) -> list[Any]:
    """What a server does with a bundle."""
    import numpy as np

    from warp_translate.serving import bundle, engine

    opened = bundle.read(folder)
    picture = np.random.default_rng(0).integers(0, 256, (1, 20, 33, 3), np.uint8)
    found = engine.OnnxEngine(opened).translate(picture, with_maps=True)
    loaded = engine.JaxEngine(opened)
    return [opened.to_json(), found.output, *found.maps.values(), sorted(loaded._params)]


def chosen(folder: Path) -> list[Any]:
    """The times that a server chooses factors by."""
    from warp_translate.serving import latency_model

    return [repr(latency_model.load(folder / "times.json"))]


def trained_on(folder: Path) -> list[Any]:
    """The examples of a prepared set, as training and evaluation are given them."""
    from warp_translate.experiment import build

    sources = build.pairs(settings(folder.parent), "train", "test")
    return [
        sorted(each.items())
        for source in sources
        for each in map(source.__getitem__, range(len(source)))
    ]


def looked_through(folder: Path) -> list[Any]:
    """What ``warp-translate data`` says and writes where it was called before."""
    from warp_translate.cli import main

    listed = folder.parent / "pictures.csv"
    sys.argv = ["warp-translate", "data", f"--root={folder.parent / 'pictures'}"]
    sys.argv += [f"--output={folder}", f"--list={listed}", "--readers=0"]
    said, sys.stdout = sys.stdout, io.StringIO()
    try:
        main.main()
    except SystemExit as leaving:
        if leaving.code:
            raise
    finally:
        told, sys.stdout = sys.stdout.getvalue(), said
    written = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".png"))
    return [told, *(path.read_bytes() for path in (*written, listed))]


def kinds(work: Path) -> list[Kind]:
    """All that is damaged."""
    return [
        Kind("run", work / "run", {"resume": resumed, "restore": restored, "report": reported}),
        Kind("bundle", work / "bundle", {"translate": translated}),
        Kind("prepared", work / "prepared", {"read": trained_on}),
        Kind("inventory", work / "inventory", {"data": looked_through}),
        Kind("cache", work / "cache", {"load": chosen}),
    ]


def in_fork(action: Callable[[Path], Any], folder: Path, timeout: float) -> Done:
    """Calls a function in a fork of this process, with the streams to itself."""
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as result:
        child = os.fork()
        if not child:
            _be_child(action, folder, said.fileno(), result.fileno())
        code = _wait(child, timeout)
        said.seek(0)
        result.seek(0)
        return Done(code, said.read().decode("utf-8", "replace"), result.read().decode())


def _be_child(action: Callable[[Path], Any], folder: Path, said: int, result: int) -> None:
    code = 1
    try:
        os.setsid()  # With all that it starts it can be killed.
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        os.dup2(said, 2)
        found = action(folder)
        os.write(result, _checksum(found).encode())
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else bool(leaving.code)
    except BaseException as error:
        from warp_translate.errors import UserError

        code = 2 if isinstance(error, UserError) else 1
        if code == 2:
            print(f"error: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int, timeout: float) -> int | None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _checksum(found: Any) -> str:
    import numpy as np

    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, list | tuple):
            for each in value:
                add(each)
        elif isinstance(value, np.ndarray):
            digest.update(f"{value.shape}{value.dtype}".encode() + value.tobytes())
        else:
            digest.update(value if isinstance(value, bytes) else repr(value).encode())
        digest.update(b"\0")

    add(found)
    return digest.hexdigest()


def judge(done: Done, known: Done, path: Path, top: Path) -> str:
    """What a flip has done.

    Args:
      done: how a reader ended.
      known: how it ends with the whole files.
      path: the file.
      top: the folder of its kind.
    """
    if done.code not in (0, 2) or "Traceback (most recent call last)" in done.said:
        return "crashed"
    if done.code == 0 and done.result == known.result:
        return "harmless"
    folders = [str(each) for each in path.parents if each == top or top in each.parents]
    new = "\n".join(set(done.said.splitlines()) - set(known.said.splitlines()))
    if any(name in new for name in (path.name, *folders)):
        return "detected"
    return "SILENTLY WRONG" if done.code == 0 else "crashed"


def pattern(path: Path) -> str:
    """A name for files of one purpose."""
    name = re.sub(r"(/d/|AtoB_)[0-9a-f]{12,}", r"\1*", f"/{path.as_posix()}")
    return re.sub(r"\d{3,}|(?<=[/_.-])\d+(?=[/_.-])", "N", name)[1:]


def places(folder: Path, rng: random.Random) -> Iterator[tuple[Path, int]]:
    """Bits at random: of the files in turns by their sizes, and of one like of another."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    sizes = [path.stat().st_size for path in files]
    while True:
        for weights in (sizes, None):
            (path,) = rng.choices(files, weights)
            yield path.relative_to(folder), rng.randrange(8 * path.stat().st_size)


def flip(path: Path, bit: int) -> None:
    """Flips one bit of a file."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


class Flips:
    """Flips bits of one kind of files, and counts what that does.

    Attributes:
      whole: the folder of the whole files while this goes on.
      counts: of outcomes, by the purpose of the file.
      bad: lines about each flip that was not noticed, or badly.
    """

    def __init__(self, kind: Kind, timeout: float) -> None:
        """Reads the whole files, twice, for what comes out must be the same."""
        self._kind, self._timeout = kind, timeout
        self.whole = kind.folder.with_name(f"{kind.folder.name}_whole")
        kind.folder.rename(self.whole)
        self.counts: dict[str, collections.Counter[str]] = collections.defaultdict(
            collections.Counter
        )
        self.bad: list[str] = []
        self._known = self._read()
        for name, done in self._known.items():
            if done.code != 0 or self._read()[name].result != done.result:
                raise HarnessError(f"{kind.name}, {name}: status {done.code}\n{done.said}")

    def run(self, place: Path, bit: int) -> str:
        """Flips one bit, and returns the worst that came of it."""
        found = self._read(place, bit)
        top = self._kind.folder
        outcomes = {
            name: judge(done, self._known[name], top / place, top) for name, done in found.items()
        }
        worst = max(outcomes.values(), key=("harmless", "detected", *OUTCOMES[2:]).index)
        self.counts[pattern(place)][worst] += 1
        for name, outcome in outcomes.items():
            if outcome in OUTCOMES[2:]:
                said = " ".join(found[name].said.split())[-200:]
                where = f"{self._kind.name}: {place}, bit {bit}, {name}"
                self.bad.append(f"{where}: {outcome}; status {found[name].code} {said}".strip())
        return worst

    def end(self) -> None:
        """Puts the whole files back, which those of other kinds may be read with."""
        self.whole.rename(self._kind.folder)

    def _read(self, place: Path | None = None, bit: int = 0) -> dict[str, Done]:
        found = {}
        for name, reader in self._kind.readers.items():
            shutil.copytree(self.whole, self._kind.folder, symlinks=True)
            try:
                if place is not None:
                    flip(self._kind.folder / place, bit)
                found[name] = in_fork(reader, self._kind.folder, self._timeout)
            finally:
                shutil.rmtree(self._kind.folder)
        return found


def table(done: Sequence[tuple[Kind, Flips]]) -> str:
    """The results as Markdown."""
    lines = [f"| files | flips | {' | '.join(OUTCOMES)} |", "|---|---:|" + 4 * "---:|"]
    total: collections.Counter[str] = collections.Counter()
    for kind, flips in done:
        for name, counts in sorted(flips.counts.items()):
            total += counts
            cells = [f"{kind.name}: `{name}`", counts.total(), *(counts[o] for o in OUTCOMES)]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    cells = ["all", total.total(), *(total[outcome] for outcome in OUTCOMES)]
    lines.append(f"| {' | '.join(map(str, cells))} |")
    bad = [line for _, flips in done for line in flips.bad]
    return "\n".join([*lines, "", *(f"- {line}" for line in bad), ""])


def main() -> int:
    """Parses the command line, flips the bits and writes the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    names = [kind.name for kind in kinds(Path())]
    parser.add_argument("--flips", type=int, default=500, help="bits, of all kinds together")
    parser.add_argument("--seed", type=int, default=0, help="of their choice")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="these kinds alone")
    parser.add_argument("--output", type=Path, help="file for the table instead of stdout")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds of one reading")
    options = parser.parse_args()
    output = options.output and options.output.resolve()
    with tempfile.TemporaryDirectory(prefix="flips_", ignore_cleanup_errors=True) as scratch:
        work = Path(scratch).resolve()
        prepare_process(work)
        made = in_fork(make, work, timeout=600.0)
        if made.code != 0:
            raise HarnessError(made.said)
        (work / "inventory").mkdir()
        first = in_fork(lambda work: looked_through(work / "inventory"), work, timeout=60.0)
        if first.code != 0:
            raise HarnessError(first.said)
        chosen_kinds = [kind for kind in kinds(work) if kind.name in options.only]
        done: list[tuple[Kind, Flips]] = []
        for number, kind in enumerate(chosen_kinds):
            flips = Flips(kind, options.timeout)
            done.append((kind, flips))
            count = (options.flips + number) // len(chosen_kinds)
            rng, begin = random.Random(f"{options.seed} {kind.name}"), time.monotonic()
            bits = places(flips.whole, rng)
            for at in range(1, count + 1):
                flips.run(*next(bits))
                left = (time.monotonic() - begin) * (count / at - 1)
                print(f"\r{kind.name}: {at}/{count}, {left:.0f} s left ", end="", file=sys.stderr)
            print(file=sys.stderr)
            flips.end()
            if output:
                output.write_text(table(done), "utf-8")
    if not output:
        print(table(done))
    return int(any(flips.bad for _, flips in done))


def prepare_process(work: Path) -> None:
    """Imports what the forks need; starts no backend of jax, which no fork could use."""
    sys.path[:0] = [str(ROOT)]
    os.chdir(work)
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(work / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "XDG_CACHE_HOME": str(work / "user_cache"),
        "PYTHONWARNINGS": "ignore",
    }
    from tests.cli import forked_commands

    forked_commands._import_all()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
