"""``warp-translate train``: trains an experiment, or goes on from its last checkpoint."""

import sys
from collections.abc import Sequence

import jax
import ml_collections
from ml_collections import config_flags

from warp_translate.cli import build, program, tasks
from warp_translate.cli.task import generator_params
from warp_translate.errors import UserError
from warp_translate.evaluation.sheet import render_sheet
from warp_translate.training import loop, parallel
from warp_translate.training.checkpoint import Checkpointer
from warp_translate.training.health import BranchWatch
from warp_translate.training.logging import Progress, open_logger
from warp_translate.types import PyTree

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Experiment file, for example experiments/paired.py.", lock_config=True
)

_SHEET_CELL = 128


def train(config: ml_collections.ConfigDict, workdir: str) -> PyTree:
    """Trains to the end of the schedule and leaves everything in the work directory.

    Args:
      config: the experiment.
      workdir: folder of the run; with checkpoints in it the run goes on from the newest.

    Returns:
      The final state: what is shared as arrays of one device, and the parts of all devices.

    Raises:
      UserError: a mistake in the configuration, the data or the work directory.
    """
    schedule = build.schedule(config)
    devices = jax.local_device_count()
    if config.training.batch_size % devices:
        raise UserError(
            f"config.training.batch_size {config.training.batch_size} must be a multiple of the "
            f"{devices} devices"
        )
    task = tasks.open_task(config)
    training = task.training
    state = build.initial_state(training, config, devices)
    build.record(config, workdir)
    checkpointer = Checkpointer(
        workdir,
        best_metric=config.evaluation.best_metric,
        keep_latest=config.training.keep_latest,
    )
    start_step = checkpointer.latest_step() or 0
    if start_step:
        state = checkpointer.restore(start_step, state)
        _say(f"going on from the checkpoint of step {start_step} in {workdir}")
    _say(f"{task.data}; {devices} {jax.default_backend()} device(s)")

    def evaluate(state: PyTree) -> loop.Evaluation:
        params = parallel.unreplicate(generator_params(training, state))
        report = task.evaluate(params, config.evaluation.sheet_rows)
        sheets = {
            f"test/{name}": render_sheet(
                sheet.rows, sheet.columns, cell=_SHEET_CELL, wheel_magnitude=sheet.wheel_magnitude
            )
            for name, sheet in report.sheets.items()
        }
        scalars = {f"test/{name}": value for name, value in report.scalars.items()}
        if config.evaluation.best_metric not in scalars:
            raise UserError(
                f"config.evaluation.best_metric {config.evaluation.best_metric} is none of the "
                f"metrics: {', '.join(sorted(scalars))}"
            )
        return loop.Evaluation(scalars, sheets)

    def save(step: int, state: PyTree, scalars: dict[str, float] | None) -> None:
        checkpointer.save(step, parallel.unreplicate(state), scalars)

    mapped = parallel.pmap_step(training.step, training.axes)
    root = build.root_key(config)
    state = loop.run(
        parallel.replicate(state, training.axes),
        start_step=start_step,
        schedule=schedule,
        step=lambda state, batch: mapped(state, parallel.shard_batch(batch, devices), root),
        batches=task.batches(start_step),
        evaluate=evaluate,
        save=save,
        logger=open_logger(workdir, enabled=True, start_step=start_step),
        progress=Progress(
            schedule.total_steps,
            start_step,
            batch_size=config.training.batch_size,
            metric_names=task.shown,
            stream=sys.stderr,
        ),
        watch=BranchWatch(config.method.mask_weights),
    )
    checkpointer.close()
    return parallel.unreplicate(state)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def main(argv: Sequence[str]) -> None:
    """Checks the command line and trains."""
    if len(argv) > 1:
        raise UserError(f"train takes flags only, got {' '.join(argv[1:])!r}")
    if _CONFIG.value is None or program.WORKDIR.value is None:
        raise UserError(
            "train needs --config=experiments/FILE.py and --workdir=FOLDER, for example "
            "--config=experiments/quickstart.py --workdir=runs/quickstart"
        )
    config = _CONFIG.value
    try:
        config.lock()
    except OSError as error:  # What config_flags answers with when the file was not there.
        raise UserError(f"--config cannot be read: {str(error).split()[-1]}") from error
    train(config, program.WORKDIR.value)
    _say(f"trained; look at it with: warp-translate evaluate --workdir={program.WORKDIR.value}")


def run() -> None:
    """Entry point of the command."""
    program.run(main)


if __name__ == "__main__":
    run()
