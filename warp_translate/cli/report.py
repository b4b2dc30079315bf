r"""``warp-translate report``: a page and Markdown of one or many runs, side by side.

    warp-translate report --runs=runs/fusion --output=reports/fusion
    warp-translate report --runs=runs/a,runs/b --metrics=output/l1_ratio,output/ssim --table

``--runs`` are folders of ``warp-translate train`` or of ``warp-translate ablate``. Runs that differ
by their seeds alone are one row. Runs that failed or were not evaluated are named as such.
``--output`` gets report.html, which needs nothing beside it, and report.md with its pictures.
"""

import sys
from collections.abc import Sequence

from absl import flags

from warp_translate import storage
from warp_translate.cli import program
from warp_translate.errors import UserError
from warp_translate.evaluation import report, runs
from warp_translate.storage import split_folders

_RUNS = flags.DEFINE_list("runs", [], "Folders of runs or of sweeps, several by commas.")
_METRICS = flags.DEFINE_list("metrics", None, "Scores to show; those that say most by default.")
_TABLE = flags.DEFINE_bool("table", False, "Print the table of results as Markdown.")


def main(argv: Sequence[str]) -> None:
    """Reads the runs and writes or prints what is asked for."""
    if len(argv) > 1:
        raise UserError(f"report takes flags only, got {' '.join(argv[1:])!r}")
    if not _TABLE.value and program.OUTPUT.value is None:
        raise UserError("report needs --output=FOLDER to write to, or --table to print a table")
    if program.OUTPUT.value is not None:
        storage.check_folder(program.OUTPUT.value, "--output")
    sources = runs.read(split_folders(_RUNS.value))
    if _METRICS.value is not None and not any(map(str.strip, _METRICS.value)):
        raise UserError("--metrics= is empty: leave it out, or name some")
    metrics = _METRICS.value and [word.strip() for word in _METRICS.value if word.strip()]
    if _TABLE.value:
        print(report.results(sources, metrics))
    if program.OUTPUT.value is not None:
        command = ["warp-translate", "report", *sys.argv[1:]]
        document = report.build(sources, metrics, command)
        for path in report.write(program.OUTPUT.value, document):
            print(f"written: {path}", file=sys.stderr)


def run() -> None:
    """Entry point of the command."""
    program.run(main, takes=(program.OUTPUT,))


if __name__ == "__main__":
    run()
