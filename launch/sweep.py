"""Expands the sweep of an experiment file into runs.

    python -m launch.sweep --config=experiments/quickstart.py --workdir=runs/sweep

The file holds ``get_sweep(arg)`` beside ``get_config(arg)``. It returns the runs, each a dictionary
of what it overrides, by dotted name: ``{"seed": 1, "optim.lr": 1e-4}``. What stands behind ``--``
goes to every run.
"""

import difflib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import ml_collections

from launch import command_line
from launch.kubernetes import render
from warp_translate.errors import UserError

Value = bool | int | float | str | tuple[int | float, ...]
Overrides = Mapping[str, Value]

_UNSAFE = re.compile(r"[^\w.+=,-]+", re.ASCII)
_LONGEST_NAME = 200  # Bytes; file systems take 255, and checkpoints are written beside.
_TASKS_FILE = "tasks.txt"
_ARRAY_SCRIPT = "launch/slurm/array.sbatch"


@dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
      name: of its folder; safe in every file system, the same for the same overrides.
      flags: what ``warp-translate train`` gets.
    """

    name: str
    flags: tuple[str, ...]


def expand(config: str, workdir: str, further: Sequence[str] = ()) -> list[Run]:
    """Returns the runs of an experiment's sweep, in its order.

    Args:
      config: experiment file, with its argument behind a colon if it has one.
      workdir: folder that the runs' own folders are in.
      further: flags for every run.

    Raises:
      UserError: the file or an override does not fit, or two runs have one name.
    """
    path, has_arg, arg = config.partition(":")
    fields, sweep = _load(path, arg if has_arg else None)
    runs = []
    owners: dict[str, Overrides] = {}
    for overrides in sweep:
        for field, value in overrides.items():
            _check(fields, field, value, path)
            command_line.refuse_flags(
                further, [f"config.{field}"], "get_sweep overrides that, leave it out behind --"
            )
        name = run_name(overrides)
        # Some file systems do not tell small letters from capitals.
        if name.casefold() in owners:
            raise UserError(
                f"--config={path}: {dict(owners[name.casefold()])} and {dict(overrides)} would "
                f"both be the run {name!r}: leave one out, or tell them apart"
            )
        owners[name.casefold()] = overrides
        runs.append(
            Run(
                name,
                (
                    f"--config={config}",
                    f"--workdir={workdir.rstrip('/')}/{name}",
                    *(f"--config.{field}={_as_text(value)}" for field, value in overrides.items()),
                    *further,
                ),
            )
        )
    return runs


def run_name(overrides: Overrides) -> str:
    """Returns the name of a run: its overrides by name, ``optim.lr=0.0001,seed=1``.

    Raises:
      UserError: the name would be too long.
    """
    name = ",".join(f"{field}={_as_text(overrides[field])}" for field in sorted(overrides))
    name = _UNSAFE.sub("_", name) or "unchanged"
    if len(name) > _LONGEST_NAME:
        raise UserError(
            f"the run {name[:40]}... has a name of {len(name)} characters, {_LONGEST_NAME} are "
            "possible: override less in get_sweep, and the rest in get_config"
        )
    return name


def _load(path: str, arg: str | None) -> tuple[ml_collections.ConfigDict, list[Overrides]]:
    """Returns what the experiment file builds: the configuration and the overrides of each run."""
    if not Path(path).is_file():
        raise UserError(
            f"--config={path} is no file: give an experiment, for example "
            "experiments/quickstart.py, in the folder that holds experiments/"
        )
    loader = SourceFileLoader("swept_experiment", path)
    module = ModuleType(loader.name)
    try:
        loader.exec_module(module)
        if not hasattr(module, "get_sweep"):
            raise UserError(f"--config={path} has no get_sweep(arg), which returns the runs")
        config, sweep = module.get_config(arg), list(module.get_sweep(arg))
    except UserError:
        raise
    except Exception as error:  # Whatever the user's file raises is the user's to mend.
        words = " ".join(str(error).split())
        raise UserError(f"--config={path}: {type(error).__name__}: {words}") from error
    if not sweep or not all(isinstance(overrides, Mapping) for overrides in sweep):
        raise UserError(
            f"--config={path}: get_sweep returns {sweep!r:.60}, it must return a dictionary of "
            "overrides for every run"
        )
    return config, sweep


def _check(config: ml_collections.ConfigDict, field: str, value: Value, path: str) -> None:
    """Refuses what ``--config.name=value`` would not mean the same in the run."""
    known = dict(_fields(config))
    if field not in known:
        nearest = difflib.get_close_matches(str(field), known, n=1, cutoff=0)[0]
        raise UserError(f"{path}: get_sweep overrides {field!r}, no field; the nearest: {nearest}")
    kind = known[field]
    # Of the exact type, since Python's True is an int; but an int will do for a float.
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise UserError(
            f"{path}: get_sweep overrides {field!r} by {value!r}; it must be {kind.__name__}"
        )
    if "\n" in _as_text(value):
        raise UserError(f"{path}: get_sweep overrides {field!r} by {value!r}: no line breaks")


def _fields(config: ml_collections.ConfigDict, prefix: str = "") -> Iterator[tuple[str, type]]:
    for name in config:
        kind = config.get_type(name)
        if issubclass(kind, ml_collections.ConfigDict):
            yield from _fields(config[name], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", kind


def _as_text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def main(argv: Sequence[str]) -> int:
    """Checks the command line and prints the runs as it says."""
    parser = command_line.Parser(
        "Expands the sweep of an experiment file into commands, a SLURM array or JobSets."
    )
    parser.add_argument("--config", required=True, help="experiment file with get_sweep")
    parser.add_argument("--workdir", required=True, help="folder that the runs' folders are in")
    parser.add_argument(
        "--format",
        choices=("commands", "slurm", "jobset"),
        default="commands",
        help="of the output",
    )
    parser.add_argument("--name", default="sweep", help="jobset: of the JobSets, before a number")
    render.add_arguments(parser)
    own, further = command_line.split_further(argv)
    arguments = parser.parse_args(own)
    manifest_flags = render.given_flags(arguments)
    if manifest_flags and arguments.format != "jobset":
        raise UserError(f"--{manifest_flags[0]} is for --format=jobset only")
    command_line.refuse_flags(further, ["config", "workdir"], "give it before --")
    runs = expand(arguments.config, arguments.workdir, further)
    if arguments.format == "commands":
        for run in runs:
            print(shlex.join(["warp-translate", "train", *run.flags]))
    elif arguments.format == "slurm":
        tasks = Path(arguments.workdir, _TASKS_FILE)
        tasks.parent.mkdir(parents=True, exist_ok=True)
        tasks.write_text("".join(f"{shlex.join(run.flags)}\n" for run in runs), encoding="utf-8")
        print(shlex.join(["sbatch", f"--array=0-{len(runs) - 1}", _ARRAY_SCRIPT, str(tasks)]))
    else:
        for index, run in enumerate(runs):
            manifest = render.from_arguments(f"{arguments.name}-{index}", arguments)
            print(f"---\n{render.render(manifest, run.flags)}", end="")
    return 0


if __name__ == "__main__":
    command_line.run(main)
