r"""``warp-translate ablate``: trains and measures every run of an experiment's sweep, unattended.

    warp-translate ablate --config=experiments/ablations/fusion.py --workdir=runs/fusion --seeds=2

Every run has a folder of its own, and a log there. What is complete is not repeated, what was cut
goes on, and a run that fails does not take the others with it: the same command again tries it
anew. Where the runs were trained elsewhere, by ``launch/``, they are only measured. At the end
there is a table of means and spreads, and a page with curves and sheets in ``<workdir>/report``.

A runner that is started beside another one on the same folder takes what the other has not begun.
"""

import json
import os
import platform
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import jax
import ml_collections
from absl import flags
from ml_collections import config_flags

from warp_translate import sealed, storage
from warp_translate.cli import config_flag, program, status
from warp_translate.errors import UserError
from warp_translate.evaluation import report, runs
from warp_translate.experiment import best_checkpoint, build, sweep, tasks
from warp_translate.experiment.runner import LOG_FILE, Job, Outcome, Runner
from warp_translate.training.logging import METRICS_FILE

_SEEDS = flags.DEFINE_integer("seeds", None, "Runs of each variant, with seeds from 0.")
_JOBS = flags.DEFINE_integer(
    "jobs",
    1,
    "Runs at once, which share the cores and the accelerators. On CPUs small networks gain little "
    "from a second core: one for each. On one GPU several hide each other's compilation.",
)
_ONLY = flags.DEFINE_multi_string(
    "only", [], "Label of a variant to run; may be given several times; all by default."
)
_PRINT = flags.DEFINE_bool("print", False, "Only print the commands.")


def main(argv: Sequence[str]) -> None:
    """Checks the command line and all runs, then runs them."""
    if len(argv) > 1:
        raise UserError(f"ablate takes flags only, got {' '.join(argv[1:])!r}")
    if config_flag.CONFIG.value is None or program.WORKDIR.value is None:
        raise UserError(
            "ablate needs --config=experiments/ablations/FILE.py and --workdir=FOLDER, for example "
            "--config=experiments/ablations/fusion.py --workdir=runs/fusion"
        )
    if _JOBS.value < 1:
        raise UserError(f"--jobs={_JOBS.value} must be at least 1")
    config = config_flag.experiment()
    build.check(config)
    experiment = config_flags.get_config_filename(flags.FLAGS["config"])
    further = config_flags.get_override_values(flags.FLAGS["config"])
    workdir = program.WORKDIR.value
    found = sweep.read_sweep(experiment, seeds=_SEEDS.value)
    chosen = choose(found, _ONLY.value, further)
    every = [f"--config.{field}={sweep.as_text(value)}" for field, value in further.items()]
    commands = {run.name: run.flags(experiment, workdir, every) for run in chosen}
    if _PRINT.value:
        for words in commands.values():
            print(shlex.join(["warp-translate", "train", *words]))
        return
    storage.check_folder(workdir, "--workdir")
    prepare(config, found, {run.variant for run in chosen})
    total_steps = config.training.total_steps
    folder = storage.to_path(workdir)
    jobs = [job(folder / name, words, total_steps) for name, words in commands.items()]
    record = Record(folder, found, experiment)
    failed = run_all(jobs, record, at_once=_JOBS.value, stream=sys.stderr)
    collect(workdir)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(jobs)} runs failed, see {LOG_FILE} in their folders: "
            f"{', '.join(failed)}; the same command tries them again"
        )


def choose(
    found: sweep.Sweep, only: Sequence[str], further: Mapping[str, object]
) -> list[sweep.Run]:
    """The runs of the variants that are asked for.

    Args:
      found: the sweep.
      only: labels of variants; none means all.
      further: what the command line sets in every run, by dotted name.

    Raises:
      UserError: there is no such variant, or the sweep sets the same.
    """
    for field in sorted({field for run in found.runs for field in run.overrides} & further.keys()):
        raise UserError(f"--config.{field} is set by the sweep itself: leave it out")
    for label in only:
        if label not in found.variants:
            known = "; ".join(found.variants)
            raise UserError(f"--only={label} is no variant; there are: {known}")
    return [run for run in found.runs if run.variant in (only or found.variants)]


def run_all(jobs: Sequence[Job], record: "Record", *, at_once: int, stream: TextIO) -> list[str]:
    """Runs jobs to the end, or until a signal says to save and leave.

    Args:
      jobs: from `job`.
      record: takes note of how each ends.
      at_once: how many run at the same time.
      stream: where progress is told.

    Returns:
      The names of those that failed.

    Raises:
      SystemExit: a signal came.
    """
    # What one run has compiled, those with other seeds and the measurement need not.
    compiled = tempfile.TemporaryDirectory(prefix="warp_translate_", ignore_cleanup_errors=True)
    environment = {"JAX_COMPILATION_CACHE_DIR": compiled.name}
    if at_once > 1:
        # On a GPU jax would take three quarters of the memory at its start.
        environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    runner = Runner(
        jobs, at_once=at_once, stream=stream, ended=record.ended, environment=environment
    )
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        runner.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with compiled:
            outcomes = runner.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        record.write()
    if received:
        print("stopped; the same command goes on", file=stream)
        sys.exit(status.INTERRUPTED if signal.SIGINT in received else status.PREEMPTED)
    return [name for name, outcome in outcomes.items() if outcome.state != "done"]


def collect(workdir: str) -> None:
    """Prints the table of a sweep's results, and writes its report into ``<workdir>/report``.

    Args:
      workdir: of the sweep.

    Raises:
      UserError: its runs do not compare, or the folder cannot be written.
    """
    sources = runs.read([workdir])
    if not any(run.evaluation for run in runs.all_runs(sources)):
        return
    print(report.results(sources))
    folder = f"{workdir.rstrip('/')}/report"
    command = ["warp-translate", "report", f"--runs={workdir}", f"--output={folder}"]
    for path in report.write(folder, report.build(sources, command=command)):
        print(f"report: {path}", file=sys.stderr)


def prepare(config: ml_collections.ConfigDict, found: sweep.Sweep, chosen: set[str]) -> None:
    """Builds every variant once: mistakes are found before hours have passed, and data is there.

    Args:
      config: what the variants override.
      found: the sweep.
      chosen: labels of the variants that will be run.

    Raises:
      UserError: a variant cannot be built; the message names it.
    """
    # What runs below is to have the accelerators.
    jax.config.update("jax_platforms", "cpu")
    for label in found.variants:
        if label not in chosen:
            continue
        variant = config.copy_and_resolve_references()
        variant.update_from_flattened_dict(dict(found.variants[label]))
        try:
            training = build.training(variant)
            metric = variant.evaluation.best_metric
            best_checkpoint.score(metric, "config.evaluation.best_metric")
            task = tasks.open_task(variant, training)
            best_checkpoint.check(metric, "config.evaluation.best_metric", task.scores)
        except UserError as error:
            raise UserError(f"the variant {label!r} cannot be run: {error}") from error


def job(folder: Path, train_flags: Sequence[str], total_steps: int) -> Job:
    """A run: to be trained, and measured as it is at its last step.

    The last, not the best: that one would be chosen by the very test set it is measured on.

    Args:
      folder: its work directory; of one in a bucket the lock and the log stay on this machine.
      train_flags: what ``warp-translate train`` gets.
      total_steps: where it ends.
    """

    def done() -> bool:
        path = folder / runs.EVALUATION_FILE
        return path.exists() and json.loads(path.read_text())["step"] == total_steps

    python = sys.executable, "-m"
    return Job(
        name=folder.name,
        folder=storage.cached(folder) if storage.scheme(folder) else folder,
        commands=(
            (*python, "warp_translate.cli.train", *train_flags),
            (*python, "warp_translate.cli.evaluate", f"--workdir={folder}", "--step=latest"),
        ),
        done=done,
        progress=lambda: _last_step(folder / METRICS_FILE),
        total=total_steps,
    )


def _last_step(path: Path) -> int:
    """The step of the last whole line of a log; 0 where there is none."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
        lines = file.read().split(b"\n")[:-1]
    return int(json.loads(lines[-1])["step"]) if len(lines) else 0


class Record:
    """``sweep.json``: what was run, how long it took and what failed, for the report."""

    def __init__(self, folder: Path, found: sweep.Sweep, experiment: str) -> None:
        """Writes what is known before anything has run.

        Args:
          folder: of the sweep.
          found: the sweep.
          experiment: its file, with the argument.

        Raises:
          UserError: the folder cannot be written.
        """
        self._path = folder / runs.SWEEP_FILE
        self._begin = time.monotonic()
        self._before = 0.0
        self._failures: dict[str, str] = {}
        if self._path.exists():
            earlier = self._read()
            if earlier["experiment"] != experiment:
                raise UserError(
                    f"--workdir={folder} holds the sweep of {earlier['experiment']}, not of "
                    f"{experiment}: choose another folder"
                )
            self._before, self._failures = earlier["seconds"], earlier["failures"]
        self._fields: dict[str, Any] = {
            "title": found.title,
            "claim": found.claim,
            "experiment": experiment,
            "command": ["warp-translate", "ablate", *sys.argv[1:]],
            "variants": {
                label: {
                    "overrides": dict(overrides),
                    "runs": [run.name for run in found.of(label)],
                }
                for label, overrides in found.variants.items()
            },
            "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
        }
        self.write()

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Takes note of how a run ended, beside what another runner has noted meanwhile."""
        self._failures = self._read()["failures"]
        self._failures.pop(job.name, None)
        if outcome.state == "failed":
            self._failures[job.name] = outcome.message
        self.write()
        place = self._path.parent / job.name / LOG_FILE
        if storage.scheme(place) and (log := job.folder / LOG_FILE).exists():
            storage.write_whole(place, log.read_bytes())

    def write(self) -> None:
        """Writes the file, whole or not at all."""
        fields = self._fields | {
            "failures": self._failures,
            "seconds": self._before + time.monotonic() - self._begin,
        }
        try:
            storage.write_whole(self._path, json.dumps(sealed.seal(fields), indent=2) + "\n")
        except OSError as error:
            raise UserError(
                f"{self._path.parent} cannot be written ({error.strerror}): choose another "
                "--workdir"
            ) from error

    def _read(self) -> dict[str, Any]:
        try:
            content = sealed.unseal(json.loads(self._path.read_text()))
            return {name: content[name] for name in ("experiment", "seconds", "failures")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self._path} is no record of a sweep ({error}): remove it; nothing is trained "
                "again for that"
            ) from error


def run() -> None:
    """Entry point of the command."""
    program.run(main, takes=(config_flag.CONFIG, program.WORKDIR))


if __name__ == "__main__":
    run()
