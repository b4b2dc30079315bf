"""The runs of an experiment file: what ``get_sweep(arg)`` names beside ``get_config(arg)``.

It returns what each variant overrides, by dotted name: a dictionary of variants,
``{"no fusion": {"method.fusion": "pretranslated"}}``, or a list, in which a variant is called after
its overrides. Every variant may be run with several seeds.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import ml_collections

from warp_translate import storage
from warp_translate.errors import UserError, did_you_mean
from warp_translate.experiment import experiment_file

Value = bool | int | float | str | tuple[int | float, ...]
Overrides = Mapping[str, Value]

_UNSAFE = re.compile(r"[^\w.+=-]+", re.ASCII)  # A comma parts folders in lists of them.
_UNSAFE_BEFORE = re.compile(r"[^\w.+=,-]+", re.ASCII)
_LONGEST_NAME = 200  # Bytes; file systems take 255, and checkpoints are written beside.


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
      name: of its folder; safe in every file system, the same for the same variant and seed.
      variant: the label of what it is a run of.
      overrides: what it sets otherwise than the experiment file, its seed included.
    """

    name: str
    variant: str
    overrides: Overrides

    def flags(self, config: str, workdir: str, further: Sequence[str] = ()) -> list[str]:
        """What ``warp-translate train`` gets.

        Args:
          config: the experiment file, with its argument behind a colon if it has one.
          workdir: folder that the runs' own folders are in.
          further: flags of every run.
        """
        return [
            f"--config={config}",
            f"--workdir={workdir.rstrip('/')}/{self.name}",
            *(f"--config.{field}={as_text(value)}" for field, value in self.overrides.items()),
            *further,
        ]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What an experiment file says of its runs.

    Attributes:
      title: the first line of its docstring.
      claim: the rest of it.
      variants: what each overrides, by label.
      runs: of each variant one for each seed, the seeds outermost: so that after half of the time
        there is a whole table.
    """

    title: str
    claim: str
    variants: Mapping[str, Overrides]
    runs: tuple[Run, ...]

    def of(self, variant: str) -> list[Run]:
        """The runs of a variant, by seed."""
        return [run for run in self.runs if run.variant == variant]


def read_sweep(config: str, *, seeds: int | None = None, workdir: str | None = None) -> Sweep:
    """Reads the sweep of an experiment file, and checks every override.

    Args:
      config: experiment file, with its argument behind a colon if it has one.
      seeds: how many runs of each variant, with the seeds from 0; None for one that keeps its own.
      workdir: folder that the runs' own folders are in; those whose names have commas, as an
        earlier version made them, keep their names.

    Raises:
      UserError: the file or an override does not fit, or two runs have one name.
    """
    if seeds is not None and seeds < 1:
        raise UserError(f"--seeds={seeds} must be at least 1")
    path, has_arg, arg = config.partition(":")
    module = experiment_file.load(path)
    base, variants = _called(module, path, arg if has_arg else None)
    fields = dict(_fields(base))
    for overrides in variants.values():
        for field, value in overrides.items():
            _check(fields, field, value, path)
        if seeds is not None and "seed" in overrides:
            raise UserError(
                f"--seeds={seeds} cannot be had of --config={path}, whose get_sweep overrides the "
                "seed itself: leave --seeds out"
            )
    runs = []
    owners: dict[str, str] = {}
    for seed in range(seeds or 1):
        for label, overrides in variants.items():
            own = overrides if seeds is None else {**overrides, "seed": seed}
            name = _folder(label if seeds is None else f"{label},seed={seed}", workdir)
            # Some file systems do not tell small letters from capitals.
            if name.casefold() in owners:
                raise UserError(
                    f"--config={path}: {owners[name.casefold()]!r} and {label!r} would both be the "
                    f"run {name!r}: leave one out, or tell them apart"
                )
            owners[name.casefold()] = label
            runs.append(Run(name, label, own))
    title, _, claim = (module.__doc__ or Path(path).stem).strip().partition("\n")
    return Sweep(title, claim.strip(), variants, tuple(runs))


def run_name(label: str) -> str:
    """The folder of a run: its label without what file systems do not take.

    Raises:
      UserError: the name would be too long.
    """
    name = _UNSAFE.sub("_", label)
    if len(name) > _LONGEST_NAME:
        raise UserError(
            f"the run {name[:40]}... has a name of {len(name)} characters, {_LONGEST_NAME} are "
            "possible: override less in get_sweep, and the rest in get_config, or name the variant"
        )
    return name


def _folder(label: str, workdir: str | None) -> str:
    """The name of a run's folder, which may be there already under a name of before."""
    name, before = run_name(label), _UNSAFE_BEFORE.sub("_", label)
    if workdir is not None and name != before and (storage.to_path(workdir) / before).is_dir():
        return before
    return name


def as_text(value: Value) -> str:
    """A value as it stands behind ``--config.name=``."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _called(
    module: ModuleType, path: str, arg: str | None
) -> tuple[ml_collections.ConfigDict, dict[str, Overrides]]:
    """The configuration, and the overrides of each variant by label."""
    if not hasattr(module, "get_sweep"):
        raise UserError(f"--config={path} has no get_sweep(arg), which returns the variants")
    given = () if arg is None else (arg,)
    config = experiment_file.configuration(module, path, *given)
    found = experiment_file.call(path, lambda: module.get_sweep(arg))
    listed = found.values() if isinstance(found, Mapping) else found
    each = experiment_file.call(path, lambda: list(listed)) if isinstance(listed, Iterable) else []
    if not each or not all(isinstance(overrides, Mapping) for overrides in each):
        raise UserError(
            f"--config={path}: get_sweep returns {found!r:.60}, it must return a dictionary of "
            "overrides for every variant"
        )
    labels = list(found) if isinstance(found, Mapping) else [_label(each) for each in each]
    if twice := {label for label in labels if labels.count(label) > 1}:
        raise UserError(
            f"--config={path}: two variants would both be the run {run_name(twice.pop())!r}: leave "
            "one out"
        )
    return config, dict(zip(labels, each, strict=True))


def _label(overrides: Overrides) -> str:
    named = (f"{field}={as_text(overrides[field])}" for field in sorted(overrides))
    return ",".join(named) or "unchanged"


def _check(known: Mapping[str, type], field: str, value: Value, path: str) -> None:
    """Refuses what ``--config.name=value`` would not mean the same in the run."""
    if field not in known:
        hint = did_you_mean(str(field), known, cutoff=0.0)
        raise UserError(f"{path}: get_sweep overrides {field!r}, no field; {hint}")
    kind = known[field]
    # Of the exact type, since Python's True is an int; but an int will do for a float.
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise UserError(
            f"{path}: get_sweep overrides {field!r} by {value!r}; it must be {kind.__name__}"
        )
    if "\n" in as_text(value):
        raise UserError(f"{path}: get_sweep overrides {field!r} by {value!r}: no line breaks")


def _fields(config: ml_collections.ConfigDict, prefix: str = "") -> Iterator[tuple[str, type]]:
    for name in config:
        kind = config.get_type(name)
        if issubclass(kind, ml_collections.ConfigDict):
            yield from _fields(config[name], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", kind
