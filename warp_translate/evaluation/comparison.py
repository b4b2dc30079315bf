"""Compares runs: groups them by seed, and ranks the groups by score."""

import dataclasses
import functools
import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from warp_translate.errors import UserError
from warp_translate.evaluation import catalogue
from warp_translate.evaluation.runs import Cost, Evaluation, Run, Source, Sweep

SEED = "seed"

# Protocol fields that describe the method; they do not affect comparability.
_OF_THE_METHOD = ("factor", "fusion", "mask_weights")
_MOST_IN_A_LABEL = 4  # Differing fields; beyond that the folder name is clearer.

# Default columns without the direction, by kind of evaluation.
_HEADLINES = {
    "paired": (
        *("output/l1_ratio", "output/psnr_gain", "output/ssim", "output/perceptual"),
        *("kernel_distance/.*/after", "output/sharpness"),
    ),
    "directions": (
        *("output/l1_ratio", "kernel_distance/.*/after", "cycle/l1"),
        "output/sharpness_of_original",
    ),
    "classifier": ("accuracy", "cross_entropy", "known", "accuracy_known", "unknown_scrambled"),
}
_DIRECTION = re.compile("(?:a_to_b|b_to_a)/")
_MOST_COLUMNS = 8


@dataclasses.dataclass(frozen=True)
class Statistic:
    """Mean, sample standard deviation (None for a single value) and number of values.

    Mean and spread are NaN if any value is not finite.
    """

    mean: float
    spread: float | None
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Statistic":
        """The statistic of at least one value."""
        found = list(values)
        if not all(map(math.isfinite, found)):
            return cls(math.nan, math.nan if len(found) > 1 else None, len(found))
        spread = statistics.stdev(found) if len(found) > 1 else None
        return cls(statistics.fmean(found), spread, len(found))


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ only in their seeds; ``source`` is the title of their sweep or ""."""

    label: str
    source: str
    runs: tuple[Run, ...]

    @functools.cached_property
    def config(self) -> Mapping[str, Any]:
        """The configuration without the seed; empty if no run was started."""
        return next((_seedless(run) for run in self.runs if run.config), {})

    @functools.cached_property
    def evaluated(self) -> list[Run]:
        """The runs with scores."""
        return [run for run in self.runs if run.evaluation is not None]

    @functools.cached_property
    def evaluations(self) -> list[tuple[int | None, Evaluation]]:
        """The seeds and evaluations of these runs."""
        return [(run.seed, run.evaluation) for run in self.runs if run.evaluation is not None]

    @property
    def key(self) -> str:
        """A unique identifier, unlike the label."""
        return str(self.runs[0].folder)

    @property
    def factor(self) -> int | None:
        """The reduction of the trunk's image; None for a classifier."""
        return self.config.get("method.factor")

    @property
    def fusion(self) -> str | None:
        """The fusion of the output; None for a classifier."""
        return self.config.get("method.fusion")

    def by_seed(self, metric: str) -> dict[int | None, float]:
        """The values of a score by seed."""
        return {
            seed: evaluation.scalars[metric]
            for seed, evaluation in self.evaluations
            if metric in evaluation.scalars
        }

    def statistic(self, metric: str) -> Statistic | None:
        """The statistic of a score over the seeds; None if no run has it."""
        values = self.by_seed(metric).values()
        return Statistic.of(values) if values else None

    @functools.cached_property
    def cost(self) -> Cost:
        """The first known cost of a translation."""
        return next((cost for _, each in self.evaluations if (cost := each.cost).macs), Cost())


def groups(sources: Sequence[Source]) -> list[Group]:
    """Groups the variants of each sweep and the single runs that differ only in their seeds.

    The order is that of the sources; single runs follow the first of them.

    Raises:
      UserError: runs of one variant differ in more than their seeds, or have the same seed.
    """
    found: list[Group] = []
    singles = [source for source in sources if isinstance(source, Run)]
    titles = [source.title for source in sources if isinstance(source, Sweep)]
    for source in sources:
        if isinstance(source, Sweep):
            repeated = titles.count(source.title) > 1
            title = f"{source.title} ({source.name})" if repeated else source.title
            found += [Group(label, title, runs) for label, runs in source.variants.items()]
        elif singles:
            found += _singles(singles)
            singles = []
    for group in found:
        _check_seeds(group)
    return found


def _singles(runs: Sequence[Run]) -> list[Group]:
    alike: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        found = _seedless(run)
        key = tuple(sorted(f"{name} {_key(found[name])}" for name in found))
        key = key or (f"never started: {run.folder}",)  # Unknown configurations are not equal.
        alike.setdefault(key, []).append(run)
    configs = [_seedless(members[0]) for members in alike.values()]
    fields = differing([config for config in configs if config])
    made = []
    for members, config in zip(alike.values(), configs, strict=True):
        others = f" and {len(members) - 1} more" if len(members) > 1 else ""
        label = f"{members[0].name}{others}"
        if config and 0 < len(fields) <= _MOST_IN_A_LABEL:
            label = in_words(config, fields)
        made.append(Group(label, "", tuple(members)))
    return made


def _check_seeds(group: Group) -> None:
    started = [run for run in group.runs if run.config]
    seen: dict[Any, Run] = {}
    for run in started:
        fields = differing([group.config, _seedless(run)])
        if fields:
            raise UserError(
                f"{started[0].name} and {run.name} should be seeds of {group.label!r} but differ "
                f"in {', '.join(fields)}: report them separately"
            )
        if run.seed in seen:
            raise UserError(
                f"{seen[run.seed].name} and {run.name} have the same configuration and seed "
                f"{run.seed}: leave one out"
            )
        seen[run.seed] = run


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Dotted names of the fields that are not equal in all configurations, in order."""
    names = dict.fromkeys(name for config in configs for name in config)
    return [
        name
        for name in names
        if len({_key(config[name]) if name in config else "" for config in configs}) > 1
    ]


def in_words(config: Mapping[str, Any], fields: Sequence[str]) -> str:
    """Fields of a configuration in a line: ``fusion full, factor 2``."""
    last = [name.rpartition(".")[2] for name in fields]
    return ", ".join(
        f"{short if last.count(short) == 1 else name} {value(config, name)}"
        for name, short in zip(fields, last, strict=True)
    )


def value(config: Mapping[str, Any], field: str) -> str:
    """Formats a field's value; a dash if the field is missing."""
    if field not in config:
        return "\N{EN DASH}"
    found = config[field]
    return found if isinstance(found, str) and found else json.dumps(found)


def check_protocols(groups: Sequence[Group]) -> None:
    """Checks that all scores were computed in the same way.

    Raises:
      UserError: they were not; names the runs and the differences.
    """
    protocols = [
        (
            run.name,
            {
                name: found
                for name, found in run.evaluation.protocol.items()
                if name.rpartition(".")[2] not in _OF_THE_METHOD
            },
        )
        for group in groups
        for run in group.runs
        if run.evaluation is not None
    ]
    for name, protocol in protocols[1:]:
        first_name, first = protocols[0]
        fields = differing([first, protocol])
        if fields:
            ways = "; ".join(
                f"{field} is {value(first, field)} and {value(protocol, field)}"
                for field in fields[:3]
            )
            raise UserError(
                f"{first_name} and {name} were evaluated differently, so their scores are not "
                f"comparable: {ways}; evaluate both alike, or report them separately"
            )


def metric_names(groups: Sequence[Group]) -> list[str]:
    """The names of all scores, in order."""
    names: dict[str, None] = {}
    for group in groups:
        for _, evaluation in group.evaluations:
            names |= dict.fromkeys(evaluation.scalars)
    return list(names)


def columns(groups: Sequence[Group], wanted: Sequence[str] | None = None) -> list[str]:
    """The scores to show: those wanted, or a default selection.

    Raises:
      UserError: no run has a wanted score.
    """
    names = metric_names(groups)
    if wanted is not None:
        for name in wanted:
            if name not in names:
                known = f"there are: {', '.join(names)}" if names else "none was evaluated"
                raise UserError(f"--metrics: no run has {name!r}; {known}")
        return list(dict.fromkeys(wanted))
    kind = "directions" if any(map(_DIRECTION.match, names)) else "paired"
    if "accuracy" in names:
        kind = "classifier"
    found = [
        name
        for headline in _HEADLINES[kind]
        for name in names
        if re.fullmatch(f"(?:{_DIRECTION.pattern})?{headline}", name)
    ]
    return (found or names)[:_MOST_COLUMNS]


def marks(groups: Sequence[Group], metric: str) -> list[str]:
    """Marks groups as "best" by a score, "equal" (not distinguishable from the best) or "".

    Two groups are distinguishable if their means differ by more than the larger of their spreads.
    """
    found = [group.statistic(metric) for group in groups]
    finite = [each for each in found if each is not None and math.isfinite(each.mean)]
    better = catalogue.describe(metric).better
    if len(finite) < 2 or better == "none":
        return ["" for _ in groups]

    def rank(each: Statistic) -> float:
        return catalogue.improvement(metric, each.mean)

    def spread(each: Statistic) -> float:
        # Where 1 is best, ranks are logarithms, and a small spread is relative.
        scale = abs(each.mean) if better == "one" and each.mean else 1.0
        return (each.spread or 0.0) / scale

    best = max(finite, key=rank)
    if all(rank(each) == rank(best) for each in finite):
        return ["" for _ in groups]  # For instance scores of the untouched original.

    def mark(each: Statistic | None) -> str:
        if each is None or not math.isfinite(each.mean) or not math.isfinite(rank(best)):
            return ""
        if rank(each) == rank(best):
            return "best"
        return "equal" if rank(best) - rank(each) <= max(spread(each), spread(best)) else ""

    return [mark(each) for each in found]


def _seedless(run: Run) -> dict[str, Any]:
    return {name: found for name, found in run.config.items() if name != SEED}


def _key(found: Any) -> str:
    """A hashable key of a JSON value; 1.0 equals 1."""
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    return json.dumps(found, sort_keys=True, default=str)
