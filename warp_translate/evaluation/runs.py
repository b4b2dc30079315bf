"""Reads what runs and sweeps have left in their folders, finished or not, without jax.

A run folder is the ``--workdir`` of ``warp-translate train``; a sweep folder that of
``warp-translate ablate``, with run folders as its children. What is missing is left open: a run
that failed or was not evaluated is a run still. What is there and cannot be read is an error.
"""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from warp_translate import sealed, storage
from warp_translate.errors import UserError

CONFIG_FILE = "config.json"
HISTORY_FILE = "metrics.jsonl"
EVALUATION_FOLDER = "evaluation"
EVALUATION_FILE = "evaluation/metrics.json"
START_FILE = "run.json"
SWEEP_FILE = "sweep.json"

TEST = "test/"
"""What the names of evaluations start with in the history."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What ``warp-translate evaluate`` found.

    Attributes:
      step: training steps of the checkpoint.
      scalars: by name, without ``test/``; they may be NaN.
      protocol: how they were found, by dotted name.
      macs: multiplications of one translation; None where they were not counted.
      share: these relative to factor 1.
      size: height and width in pixels that they hold for.
    """

    step: int
    scalars: Mapping[str, float]
    protocol: Mapping[str, Any]
    macs: float | None = None
    share: float | None = None
    size: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
      folder: where it is.
      name: what tells it from the others; with its sweep's folder in front where it has one.
      config: values by dotted name, in their order; empty where the training never started.
      history: values by name and then by step, ascending.
      evaluation: None where it was not evaluated.
      sheets: pictures of the evaluation, by name.
      start: how and where it was started, see ``run.json``; empty where that was not written.
      failure: what its sweep says of how it ended badly; "" where it says nothing.
    """

    folder: Path
    name: str
    config: Mapping[str, Any]
    history: Mapping[str, Mapping[int, float]]
    evaluation: Evaluation | None
    sheets: tuple[Path, ...]
    start: Mapping[str, Any]
    failure: str = ""

    @property
    def seed(self) -> int | None:
        """What its random numbers came from; None where the training never started."""
        return self.config.get("seed")

    @property
    def last_step(self) -> int:
        """The last step that was told of."""
        return max((step for values in self.history.values() for step in values), default=0)

    @property
    def complete(self) -> bool:
        """Whether it was trained to its end and evaluated."""
        trained = self.last_step >= self._total_steps
        return self.evaluation is not None and trained and not self.failure

    @property
    def state(self) -> str:
        """How far it has come, in a few words."""
        failed = f"failed: {self.failure}; " if self.failure else ""
        if not self.config:
            return f"{failed}never started, there is no {CONFIG_FILE}"
        if self.last_step == 0:
            trained = "no step was logged"
        elif self.last_step < self._total_steps:
            trained = f"stopped at step {self.last_step:,} of {self._total_steps:,}"
        else:
            trained = f"trained to step {self.last_step:,}"
        if self.evaluation is None:
            return f"{failed}{trained}, not evaluated"
        evaluated = f"evaluated at step {self.evaluation.step:,}"
        return evaluated if self.complete else f"{failed}{trained}, {evaluated}"

    @property
    def _total_steps(self) -> int:
        return int(self.config.get("training.total_steps", 0))


@dataclasses.dataclass(frozen=True)
class Variant:
    """Runs of a sweep that differ by their seeds alone.

    Attributes:
      label: what the sweep calls them.
      runs: in the sweep's order, at least one.
    """

    label: str
    runs: tuple[Run, ...]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """An experiment of several variants.

    Attributes:
      folder: where it is.
      name: what tells its folder from the others.
      title: in one line.
      claim: what it is to show.
      experiment: the file that it was made of.
      command: what started it.
      machine: where it ran, ready for JSON.
      seconds: how long it took; None where that is not known.
      variants: in the sweep's order.
    """

    folder: Path
    name: str
    title: str
    claim: str
    experiment: str
    command: tuple[str, ...]
    machine: Mapping[str, Any]
    seconds: float | None
    variants: tuple[Variant, ...]


Source = Sweep | Run


def read(folders: Sequence[str | os.PathLike[str]]) -> list[Source]:
    """Reads run and sweep folders.

    Args:
      folders: at least one, each of a run or of a sweep.

    Returns:
      One source for each folder, in the same order.

    Raises:
      UserError: a folder is neither, is named twice, or holds a file that cannot be read.
    """
    if not folders:
        raise UserError("--runs is empty: name at least one folder of a run or a sweep")
    paths = [storage.to_path(folder) for folder in folders]
    last = [_name(path) for path in paths]
    # Folders that are called alike are told apart by all of their paths.
    names = [
        str(path) if last.count(name) > 1 else name for path, name in zip(paths, last, strict=True)
    ]
    sources = [_source(path, name) for path, name in zip(paths, names, strict=True)]
    seen: dict[Path, str] = {}
    for run in all_runs(sources):
        place = storage.absolute(run.folder)
        if place in seen:
            raise UserError(f"--runs names {run.folder} twice: a run counts once")
        seen[place] = run.name
    return sources


def all_runs(sources: Sequence[Source]) -> list[Run]:
    """The runs of all sources, in their order."""
    found: list[Run] = []
    for source in sources:
        if isinstance(source, Run):
            found.append(source)
        else:
            found += [run for variant in source.variants for run in variant.runs]
    return found


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted names."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _source(folder: Path, name: str) -> Source:
    if (folder / SWEEP_FILE).is_file():
        return _sweep(folder, name)
    if (folder / CONFIG_FILE).is_file():
        return _run(folder, name)
    missing = (
        "is no folder" if not folder.is_dir() else f"has neither {CONFIG_FILE} nor {SWEEP_FILE}"
    )
    raise UserError(
        f"--runs: {folder} {missing}: give the --workdir of warp-translate train or of "
        "warp-translate ablate"
    )


def _name(folder: Path) -> str:
    """The name of a folder, also where it was called ``.``."""
    return folder.name or storage.absolute(folder).name


def _sweep(folder: Path, called: str) -> Sweep:
    path = folder / SWEEP_FILE
    content = _json(path)
    try:
        failures = dict(content.get("failures") or {})
        variants = []
        for label, variant in content["variants"].items():
            names = [str(name) for name in variant["runs"]]
            if not names or any(Path(name).name != name for name in names):
                raise ValueError(f"variant {label!r} must name folders inside of the sweep's")
            runs = tuple(
                _run(folder / name, f"{called}/{name}", str(failures.get(name, "")))
                for name in names
            )
            variants.append(Variant(str(label), runs))
        if not variants:
            raise ValueError("it has no variants")
        seconds = content.get("seconds")
        return Sweep(
            folder=folder,
            name=called,
            title=str(content["title"]),
            claim=str(content.get("claim", "")),
            experiment=str(content.get("experiment", "")),
            command=tuple(map(str, content.get("command", ()))),
            machine=dict(content.get("machine") or {}),
            seconds=None if seconds is None else float(seconds),
            variants=tuple(variants),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is no sweep's ({_words(error)}): run warp-translate ablate again, which "
            "repeats nothing that is there"
        ) from error


def _run(folder: Path, name: str, failure: str = "") -> Run:
    config, start = folder / CONFIG_FILE, folder / START_FILE
    return Run(
        folder=folder,
        name=name,
        config=flat(_json(config)) if config.is_file() else {},
        history=_history(folder / HISTORY_FILE),
        evaluation=_evaluation(folder / EVALUATION_FILE),
        sheets=tuple(sorted((folder / EVALUATION_FOLDER).glob("*.png"))),
        start=_json(start) if start.is_file() else {},
        failure=" ".join(failure.split()),
    )


def _evaluation(path: Path) -> Evaluation | None:
    if not path.is_file():
        return None
    content = _json(path)
    try:
        cost = content.get("cost") or {}
        return Evaluation(
            step=int(content["step"]),
            scalars={str(name): float(value) for name, value in content["scalars"].items()},
            protocol=flat(content["protocol"]),
            macs=_number(cost, "macs"),
            share=_number(cost, "share"),
            size=tuple(map(int, cost["size"])) if "size" in cost else None,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is no evaluation of this version ({_words(error)}): run warp-translate "
            f"evaluate --workdir={path.parent.parent} again"
        ) from error


def _number(fields: Mapping[str, Any], name: str) -> float | None:
    value = float(fields[name]) if fields.get(name) is not None else math.nan
    return value if math.isfinite(value) else None


def _history(path: Path) -> dict[str, dict[int, float]]:
    """Values by name and step: a resumed run tells steps twice, and the later line wins."""
    if not path.is_file():
        return {}
    try:
        *lines, rest = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({_words(error)})") from error
    found: dict[str, dict[int, float]] = {}
    for number, line in enumerate([*lines, *([rest] if rest else [])], start=1):
        try:
            record = sealed.unseal(json.loads(line))
            for name, value in record["scalars"].items():
                found.setdefault(name, {})[int(record["step"])] = float(value)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if number > len(lines) and not _starts_with_json(line):
                break  # The run is being written, or it died while it was.
            raise UserError(
                f"{path}, line {number} is no line of a training's log ({_words(error)}): remove "
                "the line, or give another run"
            ) from error
    return {name: dict(sorted(values.items())) for name, values in found.items()}


def _starts_with_json(line: str) -> bool:
    """Whether there is more than a whole object in a line, which no write leaves."""
    with contextlib.suppress(ValueError):
        json.JSONDecoder().raw_decode(line)
        return True
    return False


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, no object")
        content = sealed.unseal(content)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({_words(error)}): give another run, or write it anew"
        ) from error
    return content


def _words(error: Exception) -> str:
    """An error in one line."""
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing"
    return " ".join(str(getattr(error, "strerror", None) or error).split())
