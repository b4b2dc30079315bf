"""Tables of a report: results, all scores, recovered shares, configurations and runs."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence

from warp_translate.evaluation import catalogue, comparison
from warp_translate.evaluation.comparison import Group, Statistic
from warp_translate.evaluation.report_blocks import Cell, Column, Row, Style, Table
from warp_translate.evaluation.report_recovered import REFERENCES, Family, Share

_NONE, _MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
_ARROWS = {"higher": "↑", "lower": "↓", "one": "→ 1", "none": ""}
_WORDS = {
    **{"higher": "Higher is better.", "lower": "Lower is better.", "one": "1 is best."},
    "none": "Descriptive only: no value is better than another.",
}
_MOST_COLUMNS = 6  # Of tables with a column per variant.
_DIRECTIONS = {"a_to_b": "A to B", "b_to_a": "B to A"}
_OTHER_FACTOR = re.compile(r"factor_\d+")  # Prefix of scores at additional factors.
_SUBJECTS = ("pretranslated", "warped", "identity")  # Scores without one belong to the output.

_NOTES = {
    "best": "Bold: the best mean of a column.",
    "equal": "≈: not distinguishable from the best; the means differ by no more than the larger of "
    "the two spreads.",
}


def results(
    groups: Sequence[Group], metrics: Sequence[str], styles: Mapping[str, Style] | None = None
) -> Table:
    """A row per group with chart style by `Group.key`, a column per score, and the cost."""
    marks = {metric: comparison.marks(groups, metric) for metric in metrics}
    costs = any(group.cost.macs is not None for group in groups)
    shares = any(group.cost.share is not None for group in groups)
    counts = {(len(group.evaluated), len(group.runs)) for group in groups}
    alike = len(counts) == 1 and len(set(*counts)) == 1
    rows = []
    for place, group in enumerate(groups):
        cells = [] if alike else [Cell(_count(group))]
        cells += [
            _score(metric, group.statistic(metric), marks[metric][place], len(group.evaluated))
            for metric in metrics
        ]
        if costs:
            macs = group.cost.macs
            cells.append(Cell(_NONE if macs is None else significant(macs / 1e9)))
        if shares:
            cells.append(Cell(_fraction(group.cost.share)))
        rows.append(Row(group.label, tuple(cells), (styles or {}).get(group.key)))
    columns = [] if alike else [Column("seeds")]
    columns += map(column, metrics)
    columns += [Column("cost", "GMAC")] * costs + [Column("cost", "of factor 1")] * shares
    found = [mark for each in marks.values() for mark in each]
    notes = [note for mark, note in _NOTES.items() if mark in found]
    if any(len(group.evaluated) > 1 for group in groups):
        seeds = f"{len(groups[0].runs)}" if alike else "the"
        notes.append(f"±: sample standard deviation over {seeds} seeds.")
    else:
        notes.append("One seed each: the spread over seeds is unknown.")
    caption = "Scores on the test set"
    return Table("variant", tuple(columns), _under_sources(groups, rows), caption, tuple(notes))


def every_score(groups: Sequence[Group]) -> tuple[Table, ...]:
    """A row per score and a column per group, split to fit a page."""
    rows = []
    for metric in comparison.metric_names(groups):
        cells = tuple(
            _score(metric, group.statistic(metric), mark, len(group.evaluated))
            for group, mark in zip(groups, comparison.marks(groups, metric), strict=True)
        )
        rows.append(Row(f"{metric} {_ARROWS[catalogue.describe(metric).better]}".strip(), cells))
    counts = [len(group.evaluated) for group in groups]
    columns = tuple(
        Column(group.label, f"{count} seed{'s' * (count != 1)}" if len(set(counts)) > 1 else "")
        for group, count in zip(groups, counts, strict=True)
    )
    return tuple(_parts(Table("score", columns, tuple(rows), "Every score of every variant")))


def _parts(table: Table) -> Iterator[Table]:
    """Splits a table by columns into the fewest parts of similar width that fit a page."""
    count = len(table.columns)
    parts = -(-count // _MOST_COLUMNS)
    for part in range(parts):
        taken = slice(part * count // parts, (part + 1) * count // parts)
        yield dataclasses.replace(
            table,
            columns=table.columns[taken],
            rows=tuple(dataclasses.replace(row, cells=row.cells[taken]) for row in table.rows),
            notes=table.notes if part == parts - 1 else (),
        )


def recovered(family: Family) -> Table:
    """The recovered share per factor and score."""
    rows = [Row(family.label)] * bool(family.label)
    factor = None
    for row in family.rows:
        if row.factor != factor:
            factor = row.factor
            cost = "" if row.cost_share is None else f", {_fraction(row.cost_share)} of the cost"
            rows.append(Row(f"factor {factor}{cost}"))
        cells = [_mean(row.metric, row.this), _mean(row.metric, row.alone)]
        for reference in REFERENCES:
            cells += [_mean(row.metric, row.whole[reference]), _share(row.shares[reference])]
        rows.append(Row(column(row.metric).line, tuple(cells)))
    columns = [Column("full method", "this factor"), Column("pretranslated only", "this factor")]
    for words in REFERENCES.values():
        columns += [Column(words, "factor 1"), Column("R", "against it")]
    metrics = dict.fromkeys(row.metric for row in family.rows)
    ones = [column(name).line for name in metrics if catalogue.describe(name).better == "one"]
    notes = []
    if ones:
        notes.append(f"For {', '.join(ones)}, 1 is best; R uses the raw values.")
    if family.without:
        notes.append(
            "Pretranslated only was trained with other values of "
            f"{', '.join(family.without)}, which it does not use."
        )
    caption = "Recovered share R" + (f", {family.label}" if family.label else "")
    return Table("score", tuple(columns), tuple(rows), caption, tuple(notes))


def configurations(groups: Sequence[Group]) -> tuple[Table, ...]:
    """The configuration fields that differ, split to fit a page; no table without any."""
    started = [group for group in groups if group.config]
    configs = [group.config for group in started]
    rows = []
    for field in comparison.differing(configs):
        values = [comparison.value(config, field) for config in configs]
        cells = tuple(Cell(each, mark="changed" * (each != values[0])) for each in values)
        rows.append(Row(field, cells))
    if not rows:
        return ()
    columns = tuple(Column(group.label, numeric=False) for group in started)
    caption = "Fields that differ between the configurations"
    notes = (f"Bold: differs from {started[0].label}.",)
    return tuple(_parts(Table("field", columns, tuple(rows), caption, notes)))


def runs(groups: Sequence[Group]) -> Table:
    """Every run with its state."""
    rows = [
        Row(
            run.name,
            (
                Cell(group.label),
                Cell(_NONE if run.seed is None else str(run.seed)),
                Cell(run.state, mark="" if run.complete else "warning"),
            ),
        )
        for group in groups
        for run in group.runs
    ]
    columns = (Column("variant", numeric=False), Column("seed"), Column("state", numeric=False))
    return Table("run", columns, tuple(rows), "Every run and its state")


def of_the_output(metrics: Sequence[str]) -> list[str]:
    """The scores of the output at the run's own factor."""
    return [
        name
        for name in metrics
        if not any(part in _SUBJECTS or _OTHER_FACTOR.fullmatch(part) for part in name.split("/"))
    ]


def meanings(metrics: Sequence[str]) -> dict[str, str]:
    """Definitions of scores."""
    found = {}
    for metric in metrics:
        described = catalogue.describe(metric)
        words = f"{described.meaning} {_WORDS[described.better]}".strip()
        found[f"{column(metric).title} ({metric})"] = words
    return found


def column(metric: str) -> Column:
    """A score's column header: title and subject; direction, unit and better values."""
    described = catalogue.describe(metric)
    parts = metric.split("/")
    places = [_DIRECTIONS[part] for part in parts if part in _DIRECTIONS]
    places += [part.replace("_", " ") for part in parts if _OTHER_FACTOR.fullmatch(part)]
    subject = next((part for part in parts if part in _SUBJECTS), "")
    title = f"{described.title}, {subject}" if subject and described.meaning else described.title
    unit = f"{described.unit} {_ARROWS[described.better]}".strip()
    return Column(title, ", ".join(filter(None, (*places, unit))))


def number(metric: str, value: float) -> str:
    """Formats a value of a score."""
    return fixed(value, catalogue.describe(metric).digits)


def fixed(value: float, places: int) -> str:
    """Formats with a fixed number of decimals and a typographic minus."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else f"{_MINUS}∞"
    text = f"{value:.{places}f}"
    return text.lstrip("-") if float(text) == 0.0 else text.replace("-", _MINUS)


def significant(value: float) -> str:
    """Formats with three significant digits, or all those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def _under_sources(groups: Sequence[Group], rows: Sequence[Row]) -> tuple[Row, ...]:
    """Adds a heading before the groups of each sweep if there are several sources."""
    if len({group.source for group in groups}) < 2:
        return tuple(rows)
    found: list[Row] = []
    last = None
    for group, row in zip(groups, rows, strict=True):
        if group.source != last:
            found.append(Row(group.source or "runs on their own"))
            last = group.source
        found.append(row)
    return tuple(found)


def _score(metric: str, found: Statistic | None, mark: str, expected: int) -> Cell:
    if found is None:
        return Cell(_NONE)
    note = f"{found.count} of {expected}" if found.count < expected else ""
    spread = "" if found.spread is None else number(metric, found.spread)
    return Cell(number(metric, found.mean), spread, mark, note)


def _count(group: Group) -> str:
    done, total = len(group.evaluated), len(group.runs)
    return str(total) if done == total else f"{done} of {total}"


def _fraction(value: float | None) -> str:
    return _NONE if value is None else fixed(value, 3)


def _mean(metric: str, found: Statistic | None) -> Cell:
    return Cell(_NONE if found is None else number(metric, found.mean))


def _share(share: Share) -> Cell:
    if share.statistic is None:
        first, _, why = share.reason.partition(": ")
        return Cell(first, note=why) if why else Cell(_NONE, note=share.reason)
    spread = "" if share.statistic.spread is None else fixed(share.statistic.spread, 2)
    return Cell(fixed(share.statistic.mean, 2), spread, note=share.reason)
