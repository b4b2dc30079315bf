"""Assembles a report of runs and writes it as HTML and Markdown."""

import dataclasses
import os
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path

from warp_translate import storage
from warp_translate.evaluation import comparison, report_images, report_tables
from warp_translate.evaluation.comparison import Group
from warp_translate.evaluation.report_blocks import Block, Code, Document, Section
from warp_translate.evaluation.report_recovered import families
from warp_translate.evaluation.report_reproduction import environment, facts, lines, reproduction
from warp_translate.evaluation.runs import Source, Sweep, all_runs

PAGE, MARKDOWN, IMAGES = "report.html", "report.md", "report_pictures"

_MINUS = "\N{MINUS SIGN}"
_RECOVERED = (
    f"R = (full method {_MINUS} pretranslated only) / (full resolution {_MINUS} pretranslated "
    "only): the share of the gain from full resolution that warp and mask recover at a reduced "
    "size. 0 is no better than the network alone at that size; 1 is as good as the network that "
    "sees every pixel. R is computed per seed. It is undefined where full resolution and "
    "pretranslated only differ by no more than the spread of their difference."
)
_NOT_RECOVERED = (
    "The recovered share needs runs that differ only in fusion and factor: the full method and "
    "pretranslated only at a factor above 1, and one of both at factor 1."
)


def results(sources: Sequence[Source], metrics: Sequence[str] | None = None) -> str:
    """The table of results as Markdown; arguments as of `build`.

    Raises:
      UserError: the runs are not comparable, or none has a requested score.
    """
    from warp_translate.evaluation import report_render  # Needs Jinja2, which training does not.

    groups, columns = _compared(sources, metrics)
    return report_render.markdown_table(report_tables.results(groups, columns))


def build(
    sources: Sequence[Source], metrics: Sequence[str] | None = None, command: Sequence[str] = ()
) -> Document:
    """Assembles a report.

    Args:
      sources: runs and sweeps from `runs.read`.
      metrics: scalar names; a default selection if None.
      command: the command line that makes this report.

    Raises:
      UserError: the runs are not comparable, none has a requested score, or an image cannot be
        read.
    """
    from warp_translate.evaluation import report_charts  # A table alone needs no matplotlib.

    groups, columns = _compared(sources, metrics)
    title, lede = _subject(sources)
    cost = report_charts.cost_charts(groups, columns)
    curves = (report_charts.score_curves(groups, columns), report_charts.training_curves(groups))
    sheets = report_images.sheets(groups)
    # One sheet fills a screen; the others are collapsed.
    folded = [Section(each.title, (dataclasses.replace(each, title=""),)) for each in sheets[1:]]
    blocks: dict[str, tuple[str, tuple[Block, ...]]] = {
        "results": ("Results", _results(groups, columns, report_charts.styles(groups))),
        "recovered": ("Recovered share of full resolution", _recovered(groups, columns)),
        "cost": (
            "Cost against quality",
            (cost or "No evaluation counted its cost.",) if columns else (),
        ),
        "curves": ("Training", tuple(filter(None, curves))),
        "pictures": ("Images", (*report_images.strips(groups), *sheets[:1], *folded)),
        "configurations": ("Configurations", _configurations(groups)),
        "runs": ("Runs", (report_tables.runs(groups),)),
        "reproduce": ("Reproduce", (*reproduction(sources, command), *environment(sources))),
    }
    sections = tuple(Section(head, found, name) for name, (head, found) in blocks.items() if found)
    return Document(title, lede, facts(sources, groups), sections)


def write(folder: str | os.PathLike[str], document: Document) -> list[Path]:
    """Writes ``report.html``, ``report.md`` and the folder of its images.

    Replaces an earlier report only after everything is written.

    Returns:
      The two files.

    Raises:
      UserError: the folder cannot be written.
    """
    from warp_translate.evaluation import report_render

    files = {
        PAGE: report_render.page(document).encode(),
        MARKDOWN: report_render.markdown(document).encode(),
    }
    images = {f"{IMAGES}/{name}": png for name, png in report_render.image_files(document).items()}
    with storage.writing(folder, "--output"), storage.written_locally(folder) as local:
        partial = local / f".report.{os.getpid()}.partial"
        try:
            (partial / IMAGES).mkdir(parents=True)
            for name, content in (files | images).items():
                (partial / name).write_bytes(content)
            if (local / IMAGES).exists():
                (local / IMAGES).rename(partial / "before")
            for name in (IMAGES, MARKDOWN, PAGE):
                (partial / name).replace(local / name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return [storage.to_path(folder) / name for name in files]


def _compared(
    sources: Sequence[Source], metrics: Sequence[str] | None
) -> tuple[list[Group], list[str]]:
    groups = comparison.groups(sources)
    comparison.check_protocols(groups)
    return groups, comparison.columns(groups, metrics)


def _subject(sources: Sequence[Source]) -> tuple[str, tuple[Block, ...]]:
    """The title and the claims of the experiments."""
    sweeps = [source for source in sources if isinstance(source, Sweep)]
    if len(sources) > 1:
        lede = [block for each in sweeps for block in (each.title, *_prose(each.claim))]
        return f"Comparison of {len(all_runs(sources))} runs", tuple(lede)
    if sweeps:
        return sweeps[0].title.rstrip("."), _prose(sweeps[0].claim)
    return f"Run {sources[0].name}", ()


def _prose(docstring: str) -> tuple[Block, ...]:
    """The paragraphs of a docstring; indented ones are code."""
    found: list[Block] = []
    for part in docstring.expandtabs().strip("\n").split("\n\n"):
        if part.strip() and all(line.startswith("    ") for line in part.splitlines()):
            found.append(Code(textwrap.dedent(part)))
        elif part.strip():
            found.append(" ".join(part.replace("``", "").split()))
    return tuple(found)


def _results(
    groups: Sequence[Group], columns: Sequence[str], styles: dict[str, report_tables.Style]
) -> tuple[Block, ...]:
    blocks: list[Block] = []
    runs = [run for group in groups for run in group.runs]
    incomplete = [run.name for run in runs if not run.complete]
    if incomplete:
        blocks.append(
            f"{len(incomplete)} of {len(runs)} runs {'is' if len(incomplete) == 1 else 'are'} "
            f"incomplete: {', '.join(incomplete)}. See their states under Runs."
        )
    if not columns:
        return (*blocks, "No run was evaluated: run warp-translate evaluate.")
    blocks.append(report_tables.results(groups, columns, styles))
    if len(comparison.metric_names(groups)) > len(columns):
        blocks.append(Section("Every score", report_tables.every_score(groups)))
    blocks.append(Section("Definitions of the scores", (report_tables.meanings(columns),)))
    return tuple(blocks)


def _recovered(groups: Sequence[Group], columns: Sequence[str]) -> tuple[Block, ...]:
    if not any(group.fusion == "pretranslated" for group in groups):
        return ()
    found = families(groups, columns)
    shares = [share for each in found for row in each.rows for share in row.shares.values()]
    if not any(share.statistic or "factor 1" not in share.reason for share in shares):
        return (_NOT_RECOVERED,)
    blocks: list[Block] = [_RECOVERED, *map(report_tables.recovered, found)]
    every = report_tables.of_the_output(comparison.metric_names(groups))
    if set(every) > set(columns):
        more = tuple(map(report_tables.recovered, families(groups, every)))
        blocks.append(Section("By every score", more))
    return tuple(blocks)


def _configurations(groups: Sequence[Group]) -> tuple[Block, ...]:
    started = [group.config for group in groups if group.config]
    if not started:
        return ()
    differing = comparison.differing(started)
    common = {name: value for name, value in started[0].items() if name not in differing}
    fold = Section("Common fields, except for the seed", (Code(lines(common)),))
    return (*report_tables.configurations(groups), fold)
