"""``warp-translate train``: trains an experiment, or goes on from its last checkpoint."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence

import jax
import ml_collections
import numpy as np
from absl import flags

from warp_translate import locks, storage
from warp_translate.cli import processes, program
from warp_translate.cli.config_flag import CONFIG, experiment
from warp_translate.cli.path_flag import define_path
from warp_translate.cli.progress_flag import PROGRESS
from warp_translate.data.records import UnreadableRecord
from warp_translate.errors import Preempted, UserError
from warp_translate.evaluation.runs import TEST
from warp_translate.evaluation.sheet import render_sheet
from warp_translate.evaluation.verdict import worse_than_untouched
from warp_translate.experiment import (
    best_checkpoint,
    build,
    fields,
    finetune,
    multihost,
    run_config,
    run_record,
    tasks,
)
from warp_translate.experiment.task import Task, result_params
from warp_translate.progress import Headway
from warp_translate.training import distributed, loop
from warp_translate.training.base import Training
from warp_translate.training.checkpoint import (
    Checkpointer,
    SaveFailed,
    newest_step,
    not_finite,
)
from warp_translate.training.logging import open_logger
from warp_translate.training.parallel import Replicas
from warp_translate.training.progress import Format, Progress
from warp_translate.training.throughput import StepClock, StepProfiler
from warp_translate.types import PyTree

_COMPILATION_CACHE = define_path(
    "compilation_cache", "Folder to keep compiled programs in, for the next start."
)
_ACCEPT_CHANGES = flags.DEFINE_bool(
    "accept_changes", False, "Go on with a run though its configuration is another now."
)
_FIELDS = flags.DEFINE_bool(
    "fields", False, "Print every field with its value, valid values and meaning, and exit."
)
_PROFILE_STEPS = flags.DEFINE_integer(
    "profile_steps", 0, "Steps to profile into <workdir>/profile, after the first ten; 0 for none."
)

_LOCK_FILE = ".training.lock"
_SHEET_CELL = 128
_ALWAYS_SHOWN = ("memory/device_peak_gib", "data/skipped")
_STEPS_BEFORE_PROFILE = 10


def train(
    config: ml_collections.ConfigDict,
    workdir: str,
    *,
    accept_changes: bool = False,
    progress: Format = "auto",
    profile_steps: int = 0,
) -> PyTree:
    """Trains to the end of the schedule and leaves everything in the work directory.

    Where several processes train together all of them call this, with the same arguments.

    Args:
      config: the experiment.
      workdir: folder of the run; with checkpoints in it the run goes on from the newest.
      accept_changes: whether it goes on with another configuration than it was started with.
      progress: how it is told on stderr.
      profile_steps: steps to profile into ``<workdir>/profile``.

    Returns:
      The final state, arrays that span the devices of all processes; what each device has for
      itself has a leading axis over them.

    Raises:
      UserError: a mistake in the configuration, the data or the work directory.
      Preempted: SIGTERM or Ctrl-C came; the state is saved.
    """
    leave = distributed.LeaveNotice()
    with leave.terminations(), contextlib.ExitStack() as held:
        return _train(config, workdir, leave, accept_changes, progress, profile_steps, held)


def _train(
    config: ml_collections.ConfigDict,
    workdir: str,
    leave: distributed.LeaveNotice,
    accept_changes: bool,
    progress_format: Format,
    profile_steps: int,
    held: contextlib.ExitStack,
) -> PyTree:
    built = build.training(config)
    schedule = build.schedule(config)
    writes = distributed.is_writer()
    finetune.check(config)
    score = best_checkpoint.score(config.evaluation.best_metric, "config.evaluation.best_metric")
    build.check_batch(config, jax.device_count())
    task = tasks.open_task(config, built)
    best_checkpoint.check(
        config.evaluation.best_metric, "config.evaluation.best_metric", task.scores
    )
    training = task.training
    replicas = build.replicas(training, config)
    first = build.initial_state(training, config)
    news: list[str] = []  # Before anything can be said.
    if notice := multihost.from_first(lambda: _lock(workdir, held)):
        news.append(notice)
    changes = run_config.record(
        config,
        workdir,
        step=distributed.from_first_process(newest_step(workdir)),
        accept=accept_changes,
        write=writes,
    )
    checkpointer = Checkpointer(
        workdir,
        score=score,
        keep_latest=config.training.keep_latest,
        keep_every=config.training.keep_every,
        say=news.append,
    )
    start_step = distributed.from_first_process(checkpointer.latest_step() or 0)
    if writes and (notice := run_record.write(workdir, step=start_step, changes=changes)):
        news.append(notice)
    progress = Progress(
        schedule.total_steps,
        start_step,
        batch_size=config.training.global_batch,
        metric_names=(*task.shown, *_ALWAYS_SHOWN),
        stream=sys.stderr if writes else None,
        format=progress_format,
        if_long=_smaller(config, built, workdir),
    )
    say = progress.say
    for each in news:
        say(f"warning: {each}")
    if start_step:
        restored = checkpointer.restore(start_step, replicas.abstract(first))
        state = replicas.from_global(restored)
        say(f"going on from the checkpoint of step {start_step} in {workdir}")
        if changes:
            say(f"what has changed since it was started: {run_config.in_words(changes)}")
    else:
        state = replicas.initial(finetune.begin(first, training, config, say))
    say(f"{task.data}; {_devices_in_words(replicas.count)}")

    session = _Session(config, task, replicas, checkpointer, say)
    clock = StepClock(
        config.training.global_batch,
        flops_per_step=build.step_flops(training, config, first),
        devices=replicas.count,
        device_kind=jax.devices()[0].device_kind,
    )
    profile_start = start_step + _STEPS_BEFORE_PROFILE
    profiler = StepProfiler(f"{workdir}/profile", profile_start, profile_steps if writes else 0)
    mapped = replicas.map(training.step, steps_per_call=schedule.steps_per_call)
    root = build.root_key(config)
    if start_step < schedule.total_steps:
        # Before the loop, where Ctrl-C has nothing to save; and everyone compiles before anyone
        # waits for the others in a sum over devices.
        say("compiling the training step")
        shapes = build.batch_shapes(config, config.training.global_batch // jax.process_count())
        sample = {name: np.zeros(each.shape, each.dtype) for name, each in shapes.items()}
        mapped.compile(state, replicas.place_batches([sample] * schedule.steps_per_call), root)
        distributed.barrier("compiled")
    try:
        with leave.interrupts():
            state = loop.run(
                state,
                start_step=start_step,
                schedule=schedule,
                step=lambda state, batches: mapped(state, replicas.place_batches(batches), root),
                batches=task.batches(start_step),
                evaluate=session.evaluate,
                save=session.save,
                kept=session.kept,
                logger=open_logger(workdir, enabled=writes, start_step=start_step, warn=say),
                progress=progress,
                clock=clock,
                watch=session.watch,
                counts=task.skipped.counts,
                disagreements=replicas.disagreements,
                leave=leave,
                between=profiler,
            )
            checkpointer.wait()
    except Preempted as notice:
        notice.by_user = leave.by_user
        # All processes leave at this step, and its save may still be under way.
        checkpointer.close()
        raise
    except UserError as error:
        # For these all processes leave; with another reason one may be alone, and waits for nobody.
        if session.alone or isinstance(error, loop.TrainingDiverged | loop.ReplicasDisagree):
            with contextlib.suppress(SaveFailed):
                checkpointer.close()
        raise
    # At the end alone: early in a training every output is worse.
    for line in session.verdict:
        say(f"warning: {line}")
    if profiled := profiler.close():
        say(profiled)
    checkpointer.close()
    say(f"trained; look at it with: warp-translate evaluate --workdir={workdir}")
    return replicas.to_global(state)


@dataclasses.dataclass
class _Session:
    """What the loop is handed of a task, and what the user is told where it cannot be done.

    Attributes:
      config: of the run.
      task: what is trained.
      replicas: its devices.
      checkpointer: where its states are kept.
      say: tells the user a line.
      compiled: whether what measures is.
      verdict: of the last evaluation, see `worse_than_untouched`.
    """

    config: ml_collections.ConfigDict
    task: Task
    replicas: Replicas
    checkpointer: Checkpointer
    say: Callable[[str], None]
    compiled: bool = False
    verdict: list[str] = dataclasses.field(default_factory=list)

    @property
    def alone(self) -> bool:
        """Whether there is no other process, which would wait for what this one cannot do."""
        return jax.process_count() == 1

    def evaluate(self, state: PyTree) -> loop.Evaluation | None:
        """Measures a state; None where a picture of the test set cannot be read."""
        params = self.replicas.first_replica(result_params(self.task.training, state))
        headway = Headway(
            self.task.tested,
            self.say,
            processes=jax.process_count(),
            compiles=not self.compiled,
        )
        self.compiled = True
        try:
            report = self.task.evaluate(params, self.config.evaluation.sheet_rows, headway)
        except UnreadableRecord as error:
            if not self.alone:
                raise
            self.say(f"warning: nothing was measured: {error}")
            return None
        self.verdict = worse_than_untouched(report.scalars)
        sheets = {
            f"test/{name}": render_sheet(
                sheet.rows, sheet.columns, cell=_SHEET_CELL, wheel_magnitude=sheet.wheel_magnitude
            )
            for name, sheet in report.sheets.items()
            if distributed.is_writer()
        }
        # All have measured the same, but none may choose another best step for the last bit of it.
        scalars = distributed.from_first_process(
            {TEST + name: value for name, value in report.scalars.items()}
        )
        return loop.Evaluation(scalars, sheets)

    def save(self, step: int, state: PyTree, scalars: dict[str, float] | None) -> None:
        """Begins to save a state; a disk that refuses ends nothing as long as there is a next."""
        state = self.replicas.to_global(state)
        if path := not_finite(state):
            kept = self.kept()
            raise loop.TrainingDiverged(
                f"training diverged by step {step}: {path} holds values that are not finite "
                f"({'nothing was saved' if kept is None else f'the last checkpoint is step {kept}'}"
                "); lower config.optim.lr"
            )
        if scalars and (lost := best_checkpoint.not_finite(scalars)):
            self.say(f"warning at step {step}: {lost}, in the evaluation")
        try:
            self.checkpointer.save(step, state, scalars)
        except SaveFailed as error:
            if not self.alone:
                raise
            self.say(f"warning: {error}; training goes on, and saves again when it is time to")

    def kept(self) -> int | None:
        """The newest step that is whole on the disk."""
        with contextlib.suppress(SaveFailed):
            self.checkpointer.wait()
        return self.checkpointer.latest_step()

    def watch(self, scalars: Mapping[str, float]) -> list[str]:
        """Warnings of the metrics, and of records that were skipped."""
        news = self.task.skipped.news()
        if not distributed.is_writer():
            for line in news:
                print(f"warning: {line}", file=sys.stderr)
        return self.task.watch(scalars) + news


def _smaller(config: ml_collections.ConfigDict, training: Training, workdir: str) -> str:
    """What to do where a training would take days."""
    size, load_size = config.data.size // 2, config.data.load_size // 2
    try:
        training.check_size(size)
    except ValueError:
        return "a smaller --config.training.total_steps ends sooner"
    return (
        "at half the size a step is about a quarter of the work: the same command with "
        f"--workdir={workdir}_{size} --config.data.size={size} "
        f"--config.data.load_size={load_size}"
    )


def _lock(workdir: str, held: contextlib.ExitStack) -> str | None:
    """Keeps other trainings out of a folder on a disk; returns a line where that cannot be."""
    if storage.scheme(workdir) is not None:
        return None
    try:
        return held.enter_context(locks.held(storage.to_path(workdir) / _LOCK_FILE, "trains"))
    except OSError as error:
        raise UserError(
            f"the work directory {workdir} cannot be written ({error.strerror}): choose another "
            "--workdir"
        ) from error


def _devices_in_words(count: int) -> str:
    words = f"{count} {jax.default_backend()} device(s)"
    processes = jax.process_count()
    return words if processes == 1 else f"{words} of {processes} processes"


def main(argv: Sequence[str]) -> None:
    """Checks the command line and trains."""
    if len(argv) > 1:
        raise UserError(f"train takes flags only, got {' '.join(argv[1:])!r}")
    if _FIELDS.value and CONFIG.value is not None:
        print(fields.page(experiment()))
        return
    if CONFIG.value is None or program.WORKDIR.value is None:
        raise UserError(
            "train needs --config=experiments/FILE.py and --workdir=FOLDER, for example "
            "--config=experiments/quickstart.py --workdir=runs/quickstart"
        )
    config = experiment()
    if _PROFILE_STEPS.value < 0:
        raise UserError(f"--profile_steps={_PROFILE_STEPS.value} must be 0 or more")
    storage.check_folder(program.WORKDIR.value, "--workdir")
    if _COMPILATION_CACHE.value:
        storage.check_folder(_COMPILATION_CACHE.value, "--compilation_cache")
    processes.connect()
    if _COMPILATION_CACHE.value:
        jax.config.update("jax_compilation_cache_dir", _COMPILATION_CACHE.value)
    train(
        config,
        program.WORKDIR.value,
        accept_changes=_ACCEPT_CHANGES.value,
        progress=PROGRESS.value,
        profile_steps=_PROFILE_STEPS.value,
    )


def run() -> None:
    """Entry point of the command."""
    program.run(main, takes=(PROGRESS, CONFIG, program.WORKDIR, *processes.FLAGS))


if __name__ == "__main__":
    run()
