"""Command lines with one mistake each, for ``test_mistakes``."""

import dataclasses
import difflib
import importlib
import json
import random
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from experiments import classifier, cycle, paired
from warp_translate.cli.commands import COMMANDS
from warp_translate.evaluation.runs import flat
from warp_translate.experiment.fields import settings


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A command line with a mistake.

    Attributes:
      args: the words.
      culprits: texts that the error must contain, not followed by a letter or digit.
      meant: name that the error must suggest, if any.
      is_late: whether the command reads a checkpoint first, which takes a second.
    """

    args: tuple[str, ...]
    culprits: tuple[str, ...]
    meant: str | None = None
    is_late: bool = False


Mistakes = Iterator[Mistake]


@dataclasses.dataclass(frozen=True)
class Places:
    """Valid files for command lines.

    Attributes:
      folder: for temporary files.
      run: of a paired training.
      bundle: of a generator; its programs are invalid.
      images: a folder of images.
    """

    folder: Path
    run: str
    bundle: str
    images: str

    @property
    def new(self) -> str:
        """A path that does not exist."""
        return str(self.folder / "new")

    @property
    def text(self) -> str:
        """A text file."""
        path = self.folder / "text.txt"
        path.write_text("words\n")
        return str(path)

    @property
    def empty(self) -> str:
        """An empty folder."""
        folder = self.folder / "empty_folder"
        folder.mkdir(exist_ok=True)
        return str(folder)

    def copy(self, folder: str, name: str) -> Path:
        """A copy of a folder, to damage."""
        return Path(shutil.copytree(folder, self.folder / "copies" / re.sub(r"\W", "_", name)))

    def names(self) -> dict[str, str]:
        """Texts that stand for ``{name}`` in the tables below."""
        return {
            "run": f"--workdir={self.run}",
            "bundle": f"--bundle={self.bundle}",
            "images": f"--input={self.images}",
            "out": f"--output={self.new}",
            "config": "--config=experiments/openmoji.py:runlocal",
            "work": f"--workdir={self.new}",
            "new": self.new,
            "text": self.text,
            "empty": self.empty,
            "none": str(self.folder / "none"),
            "folder": str(self.folder),
        }


def misspelled(rng: random.Random, word: str, known) -> str:
    """A word with a letter dropped, doubled or swapped, to which it is the closest of ``known``."""
    ways = set()
    for place in range(len(word)):
        before, letter, after = word[:place], word[place], word[place + 1 :]
        ways |= {
            before + after,
            before + letter * 2 + after,
            before + after[:1] + letter + after[1:],
        }
    likely = [
        way
        for way in sorted(ways)
        if way not in known and difflib.get_close_matches(way, known, n=1) == [word]
    ]
    return rng.choice(likely)


def commands(rng: random.Random, places: Places) -> Mistakes:
    """Commands and flags that do not exist, and values of the wrong type."""
    del places
    yield Mistake((), ("no command",))
    for command in COMMANDS:
        word = misspelled(rng, command, COMMANDS)
        yield Mistake((word,), (repr(word),), command)


# For each command a line without a mistake.
_RIGHT = {
    "doctor": "",
    "data": "--root={folder}",
    "train": "{config} {work}",
    "ablate": "--config=experiments/ablations/fusion.py:runlocal {work}",
    "checkpoints": "{run}",
    "evaluate": "{run}",
    "report": "--runs={none} {out}",
    "translate": "{bundle} {images} {out}",
    "site": "{bundle} {out}",
    "device": "{bundle}",
    "cost": "{config}",
    "export": "{run} {out}",
    "serve": "{folder}",
}
_INVALID = {
    "int": ("many", "1.5", "", "-1"),
    "float": ("much", "", "-1", "nan", "inf"),
    "bool": ("perhaps",),
    "string enum": ("unknown",),
    "path": ("",),
}


def flags(rng: random.Random, places: Places) -> Mistakes:
    """Unknown flags, flags of other commands, and invalid values."""
    modules = {name: importlib.import_module(f"warp_translate.cli.{name}") for name in COMMANDS}
    taken = {
        command: {
            flag.name: absl_flags.FLAGS[flag.name].flag_type() for flag in module.COMMAND.flags
        }
        for command, module in modules.items()
    }
    every = {name for kinds in taken.values() for name in kinds}
    for command, kinds in taken.items():
        line = (command, *shlex.split(_RIGHT[command].format(**places.names())))
        for name in rng.sample(sorted(kinds), min(3, len(kinds))):
            word = misspelled(rng, name, kinds)
            yield Mistake((*line, f"--{word}=1"), (f"--{word}",), f"--{name}")
        for name in rng.sample(sorted(every - kinds.keys()), 2):
            yield Mistake((*line, f"--{name}=1"), (f"--{name}",))
        for name, kind in kinds.items():
            for value in _INVALID.get(kind, ()):
                named = f"--{name}" if name == "config" else f"--{name}={value}"
                yield Mistake((*line, f"--{name}={value}"), (named,))
        if command != "serve":
            named = "rubbish" if command == "translate" else "'rubbish'"
            yield Mistake((*line, "rubbish"), (named,))
        required = [f"--{flag.name}" for flag in modules[command].COMMAND.required]
        if required:
            yield Mistake((command,), tuple(required))


# Each line: the command line => words of the error.
_LINES = """
translate {run} --input={empty} {out} => {empty}
translate {run} {images} --output={text} => {text}
translate {run} {images} --output={text}/x => {text}/x
translate {run} {images} {out} {bundle} => --workdir --bundle
translate {images} {out} => --workdir --bundle
translate {run} {out} => --input
translate {run} {images} {out} --maps=mask,warpd => warpd
translate {run} {images} {out} --step=all => --step=all
translate {run} {images} {out} --step=7 => 7
translate {run} {images} {out} --batch=4 => --batch
translate {run} {images} {out} --quality=80 => --quality=80
translate {run} {images} {out} --quality=101 --format=webp => --quality=101
translate {run} {images} --output={new}.jpg => {new}.jpg
translate {run} --input=- {out} => --input=-
translate {run} --input=- --output=- --format=same => --format=same
translate {bundle} {images} {out} --factor=3 => 3
translate {bundle} {images} {out} --step=5 => --step=5
translate {bundle} {images} {out} --direction=a_to_b => --direction=a_to_b
evaluate {run} --step=7 => 7
evaluate {run} --step=bset => --step=bset
evaluate {run} --step= => --step=
evaluate {run} --best_by=test/output/l2 => --best_by=test/output/l2
evaluate {run} --best_by=test/accuracy => --best_by=test/accuracy
evaluate {run} --best_by=test/accuracy --step=all => --best_by=test/accuracy
evaluate {run} --best_by=test/output/l1 --step=2 => --best_by --step=2
evaluate {run} --watch --step=2 => --watch --step=2
evaluate {run} --output={text} => {text}
evaluate {run} --num_processes=2 => --num_processes=2
evaluate {run} --coordinator=here => --coordinator=here
evaluate {run} --coordinator=here:1 => --coordinator=here:1 --num_processes
evaluate --config.optim.lr=1 => --config.optim.lr
checkpoints {run} --keep=bset => --keep=bset
checkpoints {run} --keep=7 => 7
checkpoints {run} --keep= => --keep=
train --config.optim.lr=1 => --config.optim.lr --config=
train --flagfile=/nothing => /nothing
train {config} --workdir={text} => {text}
train {config} --workdir={text}/x => {text}/x
train {config} {work} --compilation_cache={text} => {text}
ablate {config} --workdir={text} => {text}
ablate {config} {work} --only=ful => --only=ful
ablate {config} {work} --seeds=0 => --seeds=0
ablate {config} {work} --config.method.fusion=full => --config.method.fusion
report --runs={none} => --output
report --runs={none} --output={text} => {text}
report --runs= {out} => --runs
report --runs={none} {out} => --runs {none}
report --runs={text} {out} => --runs {text}
data --root={none} => {none}
data --root={text} => {text}
data --root={empty} => {empty}
data --root={folder}/empty.csv => empty.csv
data --root={folder}/columns.csv => columns.csv
data --root={folder}/header.csv => header.csv
data --root={folder}/absent.csv => absent.csv
data --root={folder}/values.csv => values.csv
data --root={folder} --list=good.txt => --list=good.txt
data --root={folder} --list=good.csv --data_name=paird_folder => paird_folder
data --root={folder} --list=good.csv --test_share=0.5 --val_share=0.5 => --val_share=0.5
data --root={folder} --list=good.csv --group=( => --group=(
data --root={folder} --output={text} => {text}
data --root={folder} --data_name=paired_folder => --data_name
device --sizes=10 => '10'
device --sizes= => --sizes
device --estimate --recalibrate => --bundle
device {bundle} --estimate --recalibrate => --estimate --recalibrate
cost {config} {bundle} => --config --bundle
cost {config} --engine=onnx => --engine=onnx
cost {config} --factors=two => --factors=two
cost {config} --output={empty} => {empty}
cost {config} --output={text}/x => {text}/x
cost {config} --plot=chart.gif => chart.gif
cost --config=experiments/classifier.py => --config
cost {bundle} --factors=3 => 3
cost => --config --bundle
export {run} {out} --threshold=0.5 => --threshold
export {run} {out} --triton={text} => {text}
export {run} --output={text} => {text}
translate --bundle=retuch {images} {out} => retuch retouch?
serve a b => one folder of bundles
serve {none} => {none}
serve {text} => {text}
serve bundles --port=70000 => --port=70000
serve {empty} --host=nowhere.invalid => --host=nowhere.invalid
"""
_LATE_LINES = """
translate {run} --input={none} {out} => {none}
translate {run} --input={text} {out} => {text}
translate {run} {images} {out} --direction=a_to_b => --direction=a_to_b
evaluate {run} --extractor=efficientnet_lite1 => 'efficientnet_lite1'
evaluate {run} --extractor={none}.onnx => {none}.onnx
evaluate {run} --extractor={none}.safetensors => {none}.safetensors
evaluate {run} --recognizer={none} => {none}
evaluate {run} --recognizer={none}.onnx => {none}.onnx
evaluate {run} --recognizer_domains=man,woman => man,woman
export {run} {out} --direction=a_to_b => --direction=a_to_b
export {run} {out} --source=/ => --source
export {run} {out} --source=man --target=man => --source --target
export {run} {out} --bundle_name=.. => '..'
export {run} {out} --triton={new} => --triton {new}
"""
_LISTS = {
    "empty": "",
    "columns": "a,b\n1,2\n",
    "header": "source,target\n",
    "absent": "source,target\na.png,b.png\n",
    "values": "source,target\na.png\n",
}


def others(rng: random.Random, places: Places) -> Mistakes:
    """Inputs and outputs that are missing or unsuitable, and flags that exclude each other."""
    del rng
    for name, content in _LISTS.items():
        (places.folder / f"{name}.csv").write_text(content)
    names = places.names()
    for lines, is_late in ((_LINES, False), (_LATE_LINES, True)):
        for line in lines.strip().splitlines():
            args, _, culprits = line.partition(" => " if " => " in line else " =>")
            words = tuple(word.format(**names) for word in args.split())
            found = culprits.format(**names)
            named = (found,) if found == "one folder of bundles" else tuple(found.split())
            yield Mistake(words, named, is_late=is_late)


_EXPERIMENTS = {
    "paired.py:runlocal": paired.get_config,
    "cycle.py:runlocal": cycle.get_config,
    "cycle.py:kind=contrastive,runlocal": lambda arg: cycle.get_config(f"kind=contrastive,{arg}"),
    "classifier.py:runlocal": classifier.get_config,
}
# Values that suit their fields and not the others, and the field that the error names.
_UNSUITABLE = (
    *(("method.factor", "3", "data.size"), ("discriminator.layers", "9", "data.size")),
    *(("data.load_size", "8", "data.load_size"), ("finetune.source", "none", "finetune.source")),
    *(("data.name", "openmoji_gendr", "data.name"), ("data.name", "paired_folder", "data.root")),
    *(("optim.warmup_steps", "4", "optim.warmup_steps"), ("data.scale", "big", "data.scale")),
    *(("training.steps_per_call", "3", "training.steps_per_call"),),
    *(("evaluation.best_metric", "test/output/l2", "evaluation.best_metric"),),
    *(("evaluation.extractor", "none.onnx", "evaluation.extractor"),),
    *(("evaluation.recognizer", "none", "evaluation.recognizer"),),
    *(("losses.mask_low", "0.95", "losses.mask_low"),),
)
_OUT_OF_RANGE = {
    "0": "data.size data.load_size optim.lr optim.discriminator_lr training.global_batch "
    "training.accumulate training.steps_per_call training.total_steps training.log_every "
    "training.evaluate_every training.save_every training.keep_latest evaluation.batch_size "
    "evaluation.sheet_rows method.factor classifier.width classifier.stages generator.width "
    "generator.head_width discriminator.width discriminator.layers discriminator.scales "
    "adversary.penalty_every losses.pyramid_levels losses.temperature data.crops",
    "1": "optim.b1 optim.b2 optim.ema_decay losses.patches generator.head_kernel",
    "1.5": "data.channel_shuffle adversary.color adversary.translation adversary.cutout "
    "losses.mask_low losses.mask_high method.threshold",
    "4": "generator.head_kernel",
    "6": "classifier.width",
    "500": "data.max_rotation",
    "9999999": "data.size generator.width",
    "4294967296": "seed",
    "(2,1)": "data.scale",
    "(0,)": "evaluation.factors",
    "man,man": "classifier.domains",
}
_FREE_TEXT = {
    *("finetune.freeze", "finetune.freeze_discriminator", "finetune.source", "data.dir"),
    "classifier.domains",
}


def configuration(rng: random.Random, places: Places) -> Mistakes:
    """Unknown fields, and values that the fields of every kind of training refuse."""
    seen: set[str] = set()
    for file, get_config in _EXPERIMENTS.items():
        start = ("train", f"--config=experiments/{file}", f"--workdir={places.new}")
        known = flat(get_config("runlocal").to_dict())
        declared = settings(known["method.training"])
        for name, value in known.items():
            if name in seen:
                continue
            seen.add(name)
            section, _, last = name.rpartition(".")
            siblings = [each.rpartition(".")[2] for each in known]
            word = f"{section}.{misspelled(rng, last, siblings)}".lstrip(".")
            if difflib.get_close_matches(word, known, n=1) == [name]:
                field = f"--config.{word}"
                yield Mistake((*start, f"{field}={value}"), (f"{field} ",), f"--config.{name}")
            wrongs = [wrong for wrong, names in _OUT_OF_RANGE.items() if name in names.split()]
            if isinstance(value, bool):
                wrongs += ["perhaps"]
            elif isinstance(value, int):
                wrongs += ["-1", "many"]
            elif isinstance(value, float):
                wrongs += ["nan", "much"] + ["-1"] * (name != "generator.mask_bias")
            elif choices := declared[name].choices:
                wrong = misspelled(rng, value, choices)
                yield Mistake((*start, f"--config.{name}={wrong}"), (f"config.{name}",), value)
            elif isinstance(value, str) and value and name not in _FREE_TEXT:
                wrongs += [misspelled(rng, value, [value])]
            for wrong in wrongs:
                yield Mistake((*start, f"--config.{name}={wrong}"), (f"config.{name}",))
        section = rng.choice(sorted({name.partition(".")[0] for name in known} - {"seed"}))
        yield Mistake((*start, f"--config.{section}=1"), (f"--config.{section} ",))
    start = ("train", "--config=experiments/paired.py:runlocal", f"--workdir={places.new}")
    for name, value, culprit in _UNSUITABLE:
        yield Mistake((*start, f"--config.{name}={value}"), (f"config.{culprit}",))
    yield Mistake((*start, "--config.optim.lr.x=1"), ("--config.optim.lr.x ",))
    yield Mistake((*start, "--config.lr=1"), ("--config.lr ",), "--config.optim.lr")
    yield Mistake(("train", "--config.optim.lr=1", *start[1:]), ("--config.optim.lr=1", "--config"))


_EDITED = """
def get_config(arg=None):
  from experiments import paired
  config = paired.get_config('runlocal')
  {}
  return config
"""
# Experiment files: words of the error, and the text of the file.
_FILES: dict[str, tuple[str, str]] = {
    "syntax": ("{file} | line 1", "def get_config(:\n"),
    "binary": ("{file}", "\0"),
    "division": (
        "{file} | ZeroDivisionError | line 2",
        "def get_config(arg=None):\n  return 1/0\n",
    ),
    "module": ("{file} | 'bse'", "from experiments import bse\n"),
    "package": ("{file} | 'no_such_package'", "import no_such_package\n"),
    "nothing": ("{file} | get_config | None", "def get_config(arg=None):\n  pass\n"),
    "no_function": ("{file} | get_config", "x = 1\n"),
    "exit": ("{file}", "import sys\nsys.exit(3)\n"),
    "attribute": ("{file} | lrr | line 5", _EDITED.format("config.optim.lrr.x = 1")),
    "type": ("{file} | lr | line 5", _EDITED.format("config.optim.lr = 'fast'")),
    "field": ("config.optim.lrr ", _EDITED.format("config.optim.lrr = 1.0")),
    "lacking": ("config.optim.lr ", _EDITED.format("del config.optim.lr")),
    "section": ("config.optim.", _EDITED.format("del config.optim")),
    "value": ("config.optim.lr ", _EDITED.format("config.optim.lr = -1.0")),
}
_SWEEPS = {
    "without": ("{file} | get_sweep", ""),
    "none": ("{file} | get_sweep", "return None"),
    "number": ("{file} | get_sweep", "return 3"),
    "raises": ("{file} | KeyError | line 8", "return {{}}['a']"),
    "misspelled": ("'optim.lrr' | optim.lr", "return {{'a': {{'optim.lrr': 1.0}}}}"),
    "invalid": ("'a' | config.optim.lr ", "return {{'a': {{'optim.lr': -1.0}}}}"),
    "metric": (
        "'a' | config.evaluation.best_metric | test/accuracy",
        "return {{'a': {{'evaluation.best_metric': 'test/accuracy'}}}}",
    ),
}
_ARGUMENTS = {
    "paired.py:size=x": "size | 'x'",
    "paired.py:size=0": "config.data.size ",
    "paired.py:factor=0": "config.method.factor ",
    "paired.py:runlocal=perhaps": "runlocal | 'perhaps'",
    "cycle.py:kind=cylce": "config.method.training  | 'cylce'",
    "cycle.py:kind=classifier": "config.method.factor  | classifier",
    "openmoji.py:fusion=ful": "config.method.fusion  | 'ful'",
    "portraits.py:domains=male": "config.data.domains  | 'male'",
    "ablations/fusion.py:base=quikstart": "'quikstart' | experiments/ablations/fusion.py",
}


def experiments(rng: random.Random, places: Places) -> Mistakes:
    """Experiment files that cannot be run, and arguments that they do not take."""
    workdir = f"--workdir={places.new}"
    for group, command in ((_FILES, "train"), (_SWEEPS, "ablate")):
        for name, (culprits, text) in group.items():
            path = places.folder / f"{name}.py"
            if group is _SWEEPS:
                sweep = f"def get_sweep(arg):\n  {text.format()}\n" if text else ""
                text = _EDITED.format("pass") + sweep
            path.write_text(text)
            named = tuple(culprits.format(file=path).split(" | "))
            yield Mistake((command, f"--config={path}", workdir), named)
    for path in ("experiments/nothing.py", "experiments", "README.md", places.run, ""):
        for command in ("train", "ablate", "cost"):
            line = (command, f"--config={path}", workdir)[: 2 + (command != "cost")]
            yield Mistake(line, (path or "--config",))
    for file, names in (
        ("paired.py", ("size", "factor", "runlocal")),
        ("cycle.py", ("kind", "size", "factor", "runlocal")),
        ("portraits.py", ("size", "factor", "domains", "runlocal")),
        ("ablations/fusion.py", ("base", "steps", "runlocal")),
    ):
        for name in names:
            word = misspelled(rng, name, names)
            line = ("train", f"--config=experiments/{file}:{word}=1", workdir)
            yield Mistake(line, (repr(word), f"experiments/{file}"), name)
    for arg, culprits in _ARGUMENTS.items():
        line = ("train", f"--config=experiments/{arg}", workdir)
        yield Mistake(line, tuple(culprits.split(" | ")))


def cut(paths) -> None:
    """Keeps the first half of files."""
    for path in list(paths):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _unlink(paths) -> None:
    for path in list(paths):
        path.unlink()


# Damages to the folder of checkpoints.
_DAMAGES: dict[str, Callable[[Path], Any]] = {
    "no checkpoints": shutil.rmtree,
    "empty checkpoints": lambda folder: [shutil.rmtree(each) for each in folder.iterdir()],
    "file": lambda folder: (shutil.rmtree(folder), folder.write_text("x")),
    "cut arrays": lambda folder: cut(folder.rglob("d/*")),
    "no arrays": lambda folder: _unlink(folder.rglob("d/*")),
    "cut metadata": lambda folder: cut(folder.rglob("_METADATA")),
    "no metadata": lambda folder: _unlink(folder.rglob("_METADATA")),
    "cut metrics": lambda folder: cut(folder.rglob("metrics/*")),
}
_FIELDS = (
    *(("optim.lr", "fast"), ("data.name", 5), ("optim", None), ("data", 5)),
    *(("method.training", None), ("method.training", "cylce"), ("evaluation.factors", 3)),
    *(("evaluation.best_metric", "test/output/l2"), ("training.total_steps", "many")),
    *(("generator.dtype", "float33"), ("data.scale", [1])),
)


def runs(rng: random.Random, places: Places) -> Mistakes:
    """Folders that are no run, or a damaged one."""
    del rng
    output = f"--output={places.new}"
    lines: dict[str, tuple[str, ...]] = {
        "evaluate": (),
        "checkpoints": (),
        "translate": (f"--input={places.images}", output),
        "export": (output,),
    }
    for name, folder, culprits in _not_runs(places):
        # All commands for one of each kind, else one.
        every = name in ("nothing", "text", "lr fast", "no arrays")
        for command, line in lines.items() if every else [("evaluate", ())]:
            if (name, command) != ("no arrays", "checkpoints"):  # It does not read them.
                late = name.endswith((" arrays", " metadata"))
                yield Mistake((command, f"--workdir={folder}", *line), culprits, is_late=late)
    for name in ("config.json", "metrics.jsonl", "run.json"):
        folder = places.copy(places.run, f"nonsense_{name}")
        (folder / name).write_text("{nonsense}\n")
        yield Mistake(("report", f"--runs={folder}", output), (str(folder / name),))
    for metrics in ("output/l2", ""):
        line = ("report", f"--runs={places.run}", "--table", f"--metrics={metrics}")
        yield Mistake(line, ("--metrics",))


def _not_runs(places: Places) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yields a description, a folder, and words of the error."""
    nothing = str(places.folder / "nothing")
    for name, folder in (
        *(("nothing", nothing), ("empty", places.empty), ("text", places.text)),
        ("bundle", places.bundle),
    ):
        yield name, folder, (folder,)
    content = json.loads((Path(places.run) / "config.json").read_text())
    unsealed = {name: value for name, value in content.items() if name != "checksum"}
    texts = {
        "changed": (json.dumps(content | {"seed": content["seed"] + 1}), "checksum"),
        "cut config": (json.dumps(unsealed)[:200], "config.json"),
        "list": ("[1, 2]", "config.json"),
        "binary": ("\xff\xfe", "config.json"),
    }
    for field, value in _FIELDS:
        changed = json.loads(json.dumps(unsealed))
        section, _, last = field.rpartition(".")
        place = changed[section] if section else changed
        del place[last]
        if value is not None:
            place[last] = value
        name = f"lacking {last}" if value is None else f"{last} {value}"
        texts[name] = (json.dumps(changed), field)
    for name, (text, culprit) in texts.items():
        folder = places.copy(places.run, name)
        (folder / "config.json").write_text(text, encoding="latin-1")
        yield name, str(folder), (str(folder), culprit)
    for name, damage in _DAMAGES.items():
        folder = places.copy(places.run, name)
        damage(folder / "checkpoints")
        yield name, str(folder), (str(folder),)


def bundles(rng: random.Random, places: Places) -> Mistakes:
    """Folders that are no bundle, or a damaged one."""
    del rng
    lines = {
        "translate": (f"--input={places.images}", f"--output={places.new}"),
        "device": (),
        "cost": (),
    }
    for number, (folder, culprits) in enumerate(_not_bundles(places)):
        for command, line in lines.items() if number < 3 else [("device", ())]:
            yield Mistake((command, f"--bundle={folder}", *line), (folder, *culprits))


def _not_bundles(places: Places) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields a folder, and words of the error besides its path."""
    yield str(places.folder / "nothing"), ()
    yield places.text, ()
    yield places.run, ()
    yield places.empty, ("config.json",)
    content = json.loads((Path(places.bundle) / "config.json").read_text())
    texts = {"cut": (json.dumps(content)[:100], "config.json"), "list": ("[]", "config.json")}
    values = {"format": 7, "size": 0, "name": "../x", "source": "", "factor": 3, "factors": [0]}
    for key, value in values.items():
        texts[f"{key} {value}"] = (json.dumps(content | {key: value}), key)
    for key in content.keys() - {"format"}:
        less = {name: value for name, value in content.items() if name != key}
        named = "config.json" if key in ("normalisation", "checksum") else key
        texts[f"without {key}"] = (json.dumps(less), named)
    for key in content["architecture"]:
        architecture = content["architecture"] | {key: "unknown"}
        changed = json.dumps(content | {"architecture": architecture})
        texts[f"architecture {key}"] = (changed, f"architecture.{key}")
    for name, (text, culprit) in texts.items():
        folder = places.copy(places.bundle, f"bundle {name}")
        (folder / "config.json").write_text(text)
        yield str(folder), (culprit,)
    for file in content["files"]:
        folder = places.copy(places.bundle, f"bundle without {file}")
        (folder / file).unlink()
        yield str(folder), (file,)
        folder = places.copy(places.bundle, f"bundle with half {file}")
        cut([folder / file])
        yield str(folder), (file,)
    yield places.bundle, ("model.onnx",)  # Its checksum is right, its content is not ONNX.
