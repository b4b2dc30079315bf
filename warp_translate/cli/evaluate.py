"""``warp-translate evaluate``: measures a trained generator on the test split and draws a sheet.

``sheet.png`` and ``metrics.json`` go to ``--output``, or to ``<workdir>/evaluation``.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from warp_translate.cli import program, tasks
from warp_translate.cli.restore import trained
from warp_translate.errors import UserError
from warp_translate.evaluation.sheet import write_sheet

_ROWS = flags.DEFINE_integer("rows", 8, "Examples on the sheet, spread evenly over the split.")


def main(argv: Sequence[str]) -> None:
    """Evaluates, prints a table and writes the sheet and the figures."""
    if len(argv) > 1:
        raise UserError(f"evaluate takes flags only, got {' '.join(argv[1:])!r}")
    if _ROWS.value < 1:
        raise UserError(f"--rows={_ROWS.value} must be at least 1")
    found = trained()
    task = tasks.open_task(found.config, factor=program.FACTOR.value)
    report = task.evaluate(found.params, _ROWS.value)
    print(report.table)

    folder = Path(program.OUTPUT.value or f"{program.WORKDIR.value}/evaluation")
    figures = {"step": found.step, **report.protocol, **report.scalars}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.json").write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")
        for name, sheet in report.sheets.items():
            write_sheet(
                folder / f"{name}.png",
                sheet.rows,
                sheet.columns,
                cell=min(256, max(128, found.config.data.size)),
                title=f"{sheet.title}, step {found.step}",
                footer=sheet.footer,
                wheel_magnitude=sheet.wheel_magnitude,
            )
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}): choose another --output"
        ) from error
    for name in report.sheets:
        print(f"sheet: {folder / name}.png")


def run() -> None:
    """Entry point of the command."""
    program.run(main)


if __name__ == "__main__":
    run()
