"""``warp-translate report``: compares runs as HTML, Markdown or a table.

Runs that differ only in their seeds share a row; runs that failed or were not evaluated are listed.
"""

import sys
from collections.abc import Sequence

from absl import flags

from warp_translate import storage
from warp_translate.cli import program
from warp_translate.cli.commands import Command
from warp_translate.cli.shared_flags import OUTPUT
from warp_translate.errors import UserError
from warp_translate.evaluation import report, runs
from warp_translate.storage import split_folders

_RUNS = flags.DEFINE_list("runs", None, "Folders of runs or sweeps, separated by commas.")
_METRICS = flags.DEFINE_list(
    "metrics", None, "Metrics to show, separated by commas; the most telling ones by default."
)
_TABLE = flags.DEFINE_bool("table", False, "Print the table of results as Markdown.")

COMMAND = Command(
    "report",
    examples=(
        "--runs=runs/fusion --output=reports/fusion",
        "--runs=runs/a,runs/b --metrics=output/l1_ratio,output/ssim --table",
    ),
    required=(_RUNS,),
    common=(OUTPUT, _TABLE, _METRICS),
    text={"output": "Folder for report.html, which is self-contained, and report.md."},
)


def main(argv: Sequence[str]) -> None:
    """Writes the report, prints the table, or both."""
    del argv
    output = OUTPUT.value
    if not _TABLE.value and output is None:
        raise UserError("report needs --output=FOLDER for the report, or --table to print a table")
    if output is not None:
        storage.check_folder(output, "--output")
    sources = runs.read(split_folders(_RUNS.value or ()))
    if _METRICS.value is not None and not any(map(str.strip, _METRICS.value)):
        raise UserError("--metrics= is empty: omit it, or name some")
    metrics = _METRICS.value and [word.strip() for word in _METRICS.value if word.strip()]
    if _TABLE.value:
        print(report.results(sources, metrics))
    if output is not None:
        command = ["warp-translate", "report", *sys.argv[1:]]
        document = report.build(sources, metrics, command)
        for path in report.write(output, document):
            print(f"written: {path}", file=sys.stderr)


if __name__ == "__main__":
    program.run(main, COMMAND)
