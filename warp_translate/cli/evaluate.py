"""``warp-translate evaluate``: measures a trained generator on the test split and draws a sheet.

``sheet.png`` and ``metrics.json`` go to ``--output``, or to ``<workdir>/evaluation``. The latter
holds ``step``; ``scalars`` by name; ``protocol``, all that decides whether two scores compare; and
of generators ``cost``, the multiplications of a translation and their share of those at factor 1.
What another step or factor has left there is kept, in a folder such as ``step_500_factor_2``.

With ``--step=all`` all checkpoints are measured, one line each in ``steps.jsonl``; the sheet and
``metrics.json`` are then those of the best. With ``--watch`` this goes on beside a training until
its last step was measured. What was measured before in the same way is not measured again.
"""

import functools
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
from absl import flags

from warp_translate import sealed, storage
from warp_translate.cli import processes, program
from warp_translate.cli.run_flags import BEST_BY, open_run, trained
from warp_translate.errors import UserError
from warp_translate.evaluation.runs import CONFIG_FILE, EVALUATION_FILE, EVALUATION_FOLDER, TEST
from warp_translate.evaluation.sheet import write_sheet
from warp_translate.evaluation.verdict import worse_than_untouched
from warp_translate.experiment import best_checkpoint, eval_setup, multihost, tasks
from warp_translate.experiment.measured_steps import FILE, MeasuredSteps, Record, read_records
from warp_translate.experiment.restore import Run, Trained
from warp_translate.experiment.task import Report, Sheet, Task
from warp_translate.progress import Progress
from warp_translate.training import distributed
from warp_translate.training.base import Training
from warp_translate.training.checkpoint import CheckpointVanished, DamagedCheckpoint

_ROWS = flags.DEFINE_integer("rows", 8, "Examples on the sheet, spread evenly over the split.")
_WATCH = flags.DEFINE_bool(
    "watch",
    False,
    "Measure the checkpoints of a training as they come, until its last; Ctrl-C ends it before. "
    "Without it --step=all measures those that are there.",
)

_EXTRACTOR = flags.DEFINE_string(
    "extractor",
    None,
    "What distances see, as config.evaluation.extractor, instead of the one of the run.",
)

_RECOGNISER = flags.DEFINE_string(
    "recogniser",
    None,
    "What tells the domains apart, as config.evaluation.recogniser, instead of the one of the run: "
    "the folder of a classifier's run, or an .onnx file.",
)

_RECOGNISER_DOMAINS = flags.DEFINE_string(
    "recogniser_domains",
    None,
    "Which of its classes A and B are, as config.evaluation.recogniser_domains: man,woman of a "
    "classifier's run, or numbers from 0 of an .onnx file.",
)

Tell = Callable[[str], None]

_ALL = "all"
_SECONDS_BETWEEN_LOOKS = 5.0


def main(argv: Sequence[str]) -> None:
    """Evaluates, prints a table and writes the sheet and the figures."""
    if len(argv) > 1:
        raise UserError(f"evaluate takes flags only, got {' '.join(argv[1:])!r}")
    if _ROWS.value < 1:
        raise UserError(f"--rows={_ROWS.value} must be at least 1")
    if program.OUTPUT.value is not None:
        storage.check_folder(program.OUTPUT.value, "--output")
    processes.connect()
    writes = distributed.is_writer()
    say: Tell = (lambda line: print(line, file=sys.stderr)) if writes else _nothing
    tell: Tell = print if writes else _nothing
    if not _WATCH.value and program.STEP.value != _ALL:
        found = trained()
        task = _task(found.config, found.training)
        size = found.config.data.size
        record, report = _measure(task, found, eval_setup.cost(task.training, size), say)
        tell(report.table)
        _warn(record, say)
        multihost.from_first(lambda: _write(_folder(), record, report.sheets, size))
        return
    if program.STEP.value not in ("best", _ALL):
        raise UserError(f"--watch measures all steps, not --step={program.STEP.value}")
    try:
        _wait_for_a_run(say)
        with open_run() as run:
            _measure_all(run, say, tell)
    except KeyboardInterrupt:
        if not _WATCH.value:
            raise
        say("\nno longer watching; what was measured is kept")


def _folder() -> Path:
    return storage.to_path(program.OUTPUT.value or f"{program.WORKDIR.value}/{EVALUATION_FOLDER}")


def _task(config: ml_collections.ConfigDict, training: Training) -> Task:
    """The task of a run, with the networks that the command line names."""
    config = config.copy_and_resolve_references()
    for flag in (_EXTRACTOR, _RECOGNISER, _RECOGNISER_DOMAINS):
        if flag.value is not None:
            if config.method.training == "classifier":
                raise UserError(f"--{flag.name}={flag.value} is for generators, not a classifier")
            config.evaluation[flag.name] = flag.value
    return tasks.open_task(config, training)


def _wait_for_a_run(say: Tell) -> None:
    """A watcher may be started before the training that it watches."""
    if not _WATCH.value or program.WORKDIR.value is None:
        return
    path = storage.to_path(program.WORKDIR.value) / CONFIG_FILE
    if not path.exists():
        say(f"waiting for a training to begin in {program.WORKDIR.value}")
    while not path.exists():
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _measure_all(run: Run, say: Tell, tell: Tell) -> None:
    """Measures the steps of a run, the oldest first, which a training deletes first."""
    task = _task(run.config, run.training)
    where = "--best_by" if run.chosen else "config.evaluation.best_metric"
    best_checkpoint.check(run.best_by, where, task.scores)
    size, folder = run.config.data.size, _folder()
    cost = eval_setup.cost(task.training, size)
    records = multihost.from_first(lambda: read_records(folder / FILE))
    measured = MeasuredSteps(records, run.score, task.protocol, cost)
    last, gone, first = run.config.training.total_steps, set[int](), True
    if not _WATCH.value:
        run.step("latest")  # There must be one.
    while True:
        ahead = [step for step in run.steps() if step not in measured.steps | gone]
        if not ahead:
            if not _WATCH.value or last in measured.steps | gone:
                break
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            continue
        step = ahead[0]
        try:
            found = run.restore(step)
        except (CheckpointVanished, DamagedCheckpoint) as notice:
            gone.add(step)
            say(f"step {step} is left out: {notice}")
            continue
        record, report = _measure(task, found, cost, say, first=first)
        if measured.score(record) is None:
            known = best_checkpoint.judging(TEST + name for name in record["scalars"])
            raise UserError(
                f"{run.best_by} is none of the metrics that tell which step is better: {known}"
            )
        is_best = measured.add(record)
        tell(f"step {step}: {_figure(run, record)}{', the best so far' * is_best}")
        multihost.from_first(lambda: _write_steps(folder, measured))
        if is_best:
            write = functools.partial(_write, folder, record, report.sheets, size, keep=first)
            multihost.from_first(write)
        first = False
    chosen = measured.best()
    if chosen is not None:
        tell(f"best of {len(measured.steps)}: step {chosen['step']}, {_figure(run, chosen)}")
        _warn(chosen, say)


def _warn(record: Record, say: Tell) -> None:
    for line in worse_than_untouched(record["scalars"]):
        say(f"warning: {line}")


def _figure(run: Run, record: Record) -> str:
    return f"{run.best_by} {record['scalars'][run.best_by.removeprefix(TEST)]:.6g}"


def _measure(
    task: Task,
    found: Trained,
    cost: dict[str, Any] | None,
    say: Tell,
    *,
    first: bool = True,
) -> tuple[Record, Report]:
    """Measures a step, and makes of what was found what is written of it."""
    if first:
        say(f"compiling the evaluation; measuring {task.tested} images")
    progress = Progress(
        task.tested, stream=say, verb="measured", noun="images", processes=jax.process_count()
    )
    report = task.evaluate(found.params, _ROWS.value, progress)
    if lost := best_checkpoint.not_finite(report.scalars):
        raise UserError(
            f"step {found.step} of {program.WORKDIR.value} was not measured: {lost}; nothing was "
            "written: measure another --step"
        )
    record: Record = {
        "step": found.step,
        "scalars": report.scalars,
        "protocol": task.protocol,
    }
    if cost is not None:
        record["cost"] = cost
    return record, report


def _write_steps(folder: Path, measured: MeasuredSteps) -> None:
    try:
        measured.write(folder / FILE)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _write(
    folder: Path, record: Record, sheets: dict[str, Sheet], size: int, *, keep: bool = True
) -> None:
    """Writes the figures and the sheets, and says where the sheets are.

    Args:
      folder: where they go.
      record: the figures.
      sheets: by name of the file, without suffix.
      size: of the pictures in pixels.
      keep: whether what is there of another step or factor is kept beside them.
    """
    try:
        if keep:
            _keep_others(folder, record, sheets)
        figures = json.dumps(sealed.seal(record), indent=2, sort_keys=True)
        storage.write_whole(folder / Path(EVALUATION_FILE).name, figures + "\n")
        for name, sheet in sheets.items():
            write_sheet(
                folder / f"{name}.png",
                sheet.rows,
                sheet.columns,
                cell=min(256, max(128, size)),
                title=f"{sheet.title}, step {record['step']}",
                footer=sheet.footer,
                wheel_magnitude=sheet.wheel_magnitude,
            )
    except OSError as error:
        raise _unwritable(folder, error) from error
    for name in sheets:
        print(f"sheet: {folder / name}.png")


def _keep_others(folder: Path, record: Record, sheets: dict[str, Sheet]) -> None:
    """Copies what another step or factor has left into a folder named after these."""
    files = [Path(EVALUATION_FILE).name, *(f"{name}.png" for name in sheets)]
    try:
        before = _step_and_factor(json.loads((folder / files[0]).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # There is nothing yet, or nothing that a name could be given.
    if before != _step_and_factor(record):
        for file in files:
            if (folder / file).exists():
                storage.write_whole(folder / before / file, (folder / file).read_bytes())
        print(f"kept: {folder / before}")


def _step_and_factor(record: Record) -> str:
    """What tells one sheet from another, as the name of a folder."""
    factor = record.get("cost", {}).get("factor")  # A classifier has none.
    return f"step_{int(record['step'])}" + (f"_factor_{int(factor)}" if factor else "")


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"{folder} cannot be written ({error.strerror or error}): choose another --output"
    )


def _nothing(line: str) -> None:
    del line


def run() -> None:
    """Entry point of the command."""
    program.run(
        main,
        takes=(
            program.WORKDIR,
            program.OUTPUT,
            program.STEP,
            program.FACTOR,
            BEST_BY,
            *processes.FLAGS,
        ),
    )


if __name__ == "__main__":
    run()
