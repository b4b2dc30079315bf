"""Charts of a report: scores over steps and scores against cost."""

import functools
import io
import itertools
import math
import re
import statistics
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from warp_translate.evaluation import catalogue
from warp_translate.evaluation.comparison import Group, Statistic, differing
from warp_translate.evaluation.report_blocks import Charts, Panel, Style
from warp_translate.evaluation.report_tables import column, number, significant
from warp_translate.evaluation.runs import TEST

# Training metrics to show: the first few that exist.
_TRAINING = {
    "generator/loss": "generator, all losses",
    "generator/l1_output": "L1 of the output while training",
    "a_to_b/loss": "generators, all losses",
    "a_to_b/cycle": "cycle loss, A to B",
    "a_to_b/contrast": "contrastive loss",
    "discriminator/probability_gap": "gap of the discriminator's probabilities",
    "d_b/probability_gap": "gap of the discriminator's probabilities, B",
    "mask/mean": "mask mean",
    "a_to_b/mask/mean": "mask mean, A to B",
    "loss": "loss",
}
_MOST_TRAINING = 4
_MOST_POINTS = 50  # Per training curve; longer curves are averaged, which shows the trend.

_SIZE = (3.9, 2.65)  # Inches; text of 9 points is legible at the width of a phone.
_GRAY, _INK, _RULE, _AXIS = "#5b646b", "#30363a", "#dfe3e6", "#c3c9cd"
# Names may hold dollar signs; the salt makes files reproducible.
_SETTINGS: Any = {"text.parse_math": False, "svg.hashsalt": "report"}
_LOG_FROM = 4.0  # Ratio of the extreme costs from which the cost axis is logarithmic.

_COLORS = (
    *("#14607a", "#c8622d", "#6b4fa0", "#2f7d4f", "#b03a5b", "#8a6a1f"),
    *("#3b6fd4", "#56606a"),
)
_MARKERS = "osD^vPX"  # One fewer than the colors, so that more pairs are distinct.
# Factors differ by dash and by shade; the smallest is solid and darkest.
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2))
_LIGHTEST = 0.45

Points = list[tuple[float, Statistic, str]]
"""Positions on the x-axis, values and labels."""

Series = list[tuple[Style, Points]]


def lines(groups: Sequence[Group]) -> list[tuple[str, Style, list[Group]]]:
    """Joins groups that differ only in their factor: label, style and groups by factor."""
    found: list[tuple[dict[str, object], list[Group]]] = []
    for group in groups:
        if not group.config:
            continue
        key = {name: value for name, value in group.config.items() if name != "method.factor"}
        for other, members in found:
            if not differing([other, key]):
                members.append(group)
                break
        else:
            found.append((key, [group]))
    names = [_common_label([group.label for group in members]) for _, members in found]
    made = []
    for place, ((_, members), name) in enumerate(zip(found, names, strict=True)):
        label = name if name and names.count(name) == 1 else members[0].label
        style = Style(_COLORS[place % len(_COLORS)], marker=_MARKERS[place % len(_MARKERS)])
        made.append((label, style, sorted(members, key=lambda group: group.factor or 0)))
    return made


def _common_label(labels: Sequence[str]) -> str:
    """The common prefix without its "factor": "full, factor 1" and "full, factor 2" give "full"."""
    if len(labels) == 1:
        return labels[0]
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*labels, strict=False))
    return re.sub(r"[\W_]*(factor|x)?[\W_]*$", "", "".join(letters[0] for letters in alike))


def styles(groups: Sequence[Group]) -> dict[str, Style]:
    """Styles by `Group.key`: color and marker of the line, shade and dash of the factor."""
    factors = sorted({group.factor for group in groups if group.factor is not None})
    found = {}
    for _, style, members in lines(groups):
        for group in members:
            place = factors.index(group.factor) if group.factor in factors else 0
            share = _LIGHTEST * place / max(len(factors) - 1, 1)
            levels = (int(style.color[start : start + 2], 16) for start in (1, 3, 5))
            color = "#" + "".join(f"{round(x + (255 - x) * share):02x}" for x in levels)
            found[group.key] = Style(color, _DASHES[place % len(_DASHES)], style.marker)
    return found


def score_curves(groups: Sequence[Group], metrics: Sequence[str]) -> Charts | None:
    """Scores on the test set over training steps; None without any."""
    panels = []
    for metric in metrics:
        points = {group.key: _over_steps(group, TEST + metric) for group in groups}
        ends = "; ".join(
            f"{group.label} {number(metric, points[group.key][-1][1].mean)}"
            for group in groups
            if points[group.key]
        )
        if ends:
            head = column(metric)
            alt = f"{head.title} on the test set over the steps of training. Last: {ends}."
            panels.append(_curve_panel(head.line, alt, groups, points))
    caption = "On the test set over the steps of training: the mean over the seeds"
    return _curves("curves", groups, panels, caption)


def training_curves(groups: Sequence[Group]) -> Charts | None:
    """A few training metrics over steps; None without any."""
    logged = {name for group in groups for run in group.runs for name in run.history}
    panels = []
    for name in [name for name in _TRAINING if name in logged][:_MOST_TRAINING]:
        points = {group.key: _averaged(_over_steps(group, name)) for group in groups}
        alt = f"{_TRAINING[name]} over the steps of training."
        panels.append(_curve_panel(_TRAINING[name], alt, groups, points))
    caption = (
        f"While training, {_MOST_POINTS} averages of each line at most: the mean over the seeds"
    )
    return _curves("training", groups, panels, caption)


def _curve_panel(title: str, alt: str, groups: Sequence[Group], points: dict[str, Points]) -> Panel:
    found = styles(groups)
    series = [(found[key], line) for key, line in points.items() if line and key in found]
    return Panel(title, alt, functools.partial(_draw_curves, series))


def _curves(
    name: str, groups: Sequence[Group], panels: Sequence[Panel], caption: str
) -> Charts | None:
    if not panels:
        return None
    found = styles(groups)
    legend = tuple(
        (group.label, Style(found[group.key].color, found[group.key].dash, marker=""))
        for group in groups
        if group.key in found
    )
    several = any(len(group.runs) > 1 for group in groups)
    band = ", and one standard deviation on either side." if several else "."
    return Charts(name, tuple(panels), legend, caption + band)


def cost_charts(groups: Sequence[Group], metrics: Sequence[str]) -> Charts | None:
    """Scores against multiplications, with a line per fusion; None if no cost is known."""
    found = lines([group for group in groups if group.cost.macs is not None])
    panels = []
    for metric in metrics:
        if catalogue.describe(metric).better == "none":
            continue
        series: Series = []
        words = []
        for _, style, members in found:
            line: Points = []
            for group in members:
                macs, value = (group.cost.macs or 0) / 1e9, group.statistic(metric)
                if value is not None and math.isfinite(value.mean):
                    line.append((macs, value, str(group.factor)))
                    score = number(metric, value.mean)
                    words.append(f"{group.label} {score} at {significant(macs)} GMAC")
            series.append((style, line))
        if words:
            head = column(metric)
            alt = f"{head.title} against multiplications: {'; '.join(words)}."
            panels.append(Panel(head.line, alt, functools.partial(_draw_cost, series)))
    if not panels:
        return None
    caption = "Against the multiplications of one translation in GMAC; bars are the spread"
    several = any(len(members) > 1 for _, _, members in found)
    caption += "; the numbers at the points are factors." if several else "."
    legend = tuple((label, style) for label, style, _ in found)
    return Charts("cost", tuple(panels), legend, caption)


def render(
    panels: Sequence[Panel], legend: Sequence[tuple[str, Style]] = (), format: str = "svg"
) -> bytes:
    """Draws panels as one image; with a legend, panels get their titles too."""
    across = min(3, len(panels))
    down = math.ceil(len(panels) / across)
    beside = max(1, min(across, len(legend)))
    titles = 0.25 if legend else 0.0
    height = (_SIZE[1] + titles) * down + 0.24 * math.ceil(len(legend) / beside)
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(_SIZE[0] * across, height), layout="constrained")
        panes = figure.subplots(down, across, squeeze=False).flat
        for axes, panel in itertools.zip_longest(panes, panels):
            axes.set_visible(panel is not None)
            if panel:
                panel.draw(axes)
                axes.set_title(panel.title if legend else "", fontsize=10.5, color=_INK, loc="left")
        if legend:
            handles = [
                Line2D([], [], **_line(style), marker=style.marker, markersize=4, label=label)
                for label, style in legend
            ]
            figure.legend(
                handles=handles, loc="outside lower left", ncols=beside, frameon=False, fontsize=9
            )
        buffer = io.BytesIO()
        metadata = {"Date": None} if format == "svg" else None
        figure.savefig(buffer, format=format, dpi=150, metadata=metadata)
    return buffer.getvalue()


def _over_steps(group: Group, name: str) -> Points:
    """Means over the seeds of the finite values at each step."""
    values: dict[int, list[float]] = {}
    for run in group.runs:
        for step, value in run.history.get(name, {}).items():
            if math.isfinite(value):
                values.setdefault(step, []).append(value)
    return [(step, Statistic.of(found), "") for step, found in sorted(values.items())]


def _averaged(points: Points) -> Points:
    """Averages of neighbors, `_MOST_POINTS` at most."""
    every = math.ceil(len(points) / _MOST_POINTS)
    if every < 2:
        return points
    found: Points = []
    for start in range(0, len(points), every):
        part = points[start : start + every]
        spreads = [each.spread for _, each, _ in part if each.spread is not None]
        average = Statistic(
            statistics.fmean(each.mean for _, each, _ in part),
            statistics.fmean(spreads) if spreads else None,
            part[0][1].count,
        )
        found.append((statistics.fmean(step for step, _, _ in part), average, ""))
    return found


def _draw_curves(series: Series, axes: Axes) -> None:
    for style, points in series:
        steps, means, spreads = _columns(points)
        marker = style.marker if len(points) < 3 else ""
        axes.plot(steps, means, **_line(style), marker=marker, markersize=4)
        if spreads.any():
            axes.fill_between(
                steps, means - spreads, means + spreads, color=style.color, alpha=0.13, linewidth=0
            )
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    _look(axes, "step")


def _draw_cost(series: Series, axes: Axes) -> None:
    for style, points in series:
        macs, means, spreads = _columns(points)
        line: dict[str, Any] = {**_line(style), "marker": style.marker, "markersize": 5}
        axes.errorbar(macs, means, yerr=spreads, elinewidth=1.0, **line)
        text: Any = {"textcoords": "offset points", "fontsize": 8.5, "color": style.color}
        for x, value, label in points if len(points) > 1 else ():
            axes.annotate(label, (x, value.mean), xytext=(5, 4), **text)
    costs = [x for _, points in series for x, _, _ in points]
    if max(costs) > _LOG_FROM * min(costs) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=6))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda macs, _: f"{macs:,.6g}"))
    axes.margins(x=0.1, y=0.14)
    _look(axes, "GMAC")


def _columns(points: Points) -> tuple[Any, Any, Any]:
    """Positions, means and spreads."""
    values = [(x, value.mean, value.spread or 0.0) for x, value, _ in points]
    x, means, spreads = np.array(values).reshape(-1, 3).T
    return x, means, spreads


def _line(style: Style) -> dict[str, Any]:
    return {
        "color": style.color,
        "linestyle": (0, style.dash) if style.dash else "-",
        "linewidth": 1.7,
    }


def _look(axes: Axes, label: str) -> None:
    axes.set_xlabel(label, color=_GRAY, fontsize=9)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(labelsize=9)
    plain(axes)


def plain(axes: Axes) -> None:
    """Light grid and axes, without a frame."""
    axes.grid(which="major", color=_RULE, linewidth=0.8)
    axes.tick_params(which="both", color=_AXIS, labelcolor=_INK)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_AXIS)


def _thousands(step: float, _: object) -> str:
    return f"{step / 1000:g}k" if step >= 1000 else f"{step:g}"
