"""``warp-translate ablate``: trains and evaluates every run of a sweep, unattended.

Each run has its own folder with a log. Complete runs are skipped, interrupted ones resume, and a
failed run does not stop the others; the same command retries it. Runs that were trained elsewhere,
by ``launch/``, are only evaluated. A second command on the same folder shares the work.
"""

import shlex
import signal
import sys
from collections.abc import Sequence

from absl import flags

from warp_translate import storage
from warp_translate.cli import program, status
from warp_translate.cli.commands import Command
from warp_translate.cli.config_flag import CONFIG, experiment
from warp_translate.cli.shared_flags import WORKDIR
from warp_translate.errors import UserError

_SEEDS = flags.DEFINE_integer(
    "seeds", None, "Runs of each variant, with seeds from 0.", lower_bound=1
)
_JOBS = flags.DEFINE_integer(
    "jobs",
    1,
    "Runs at the same time, which share cores and accelerators. On CPUs small networks gain little "
    "from a second core: one run for each core. On a GPU runs hide each other's compilation.",
    lower_bound=1,
)
_ONLY = flags.DEFINE_multi_string(
    "only", [], "Label of a variant to run; may be repeated; all by default."
)
_PRINT = flags.DEFINE_bool("print", False, "Print the train commands and exit.")

COMMAND = Command(
    "ablate",
    examples=(
        "--config=experiments/ablations/fusion.py --workdir=runs/fusion --seeds=2",
        "--config=experiments/ablations/fusion.py --workdir=runs/fusion --print",
    ),
    required=(CONFIG, WORKDIR),
    common=(_SEEDS, _JOBS),
    advanced=(_ONLY, _PRINT),
    text={
        "config": "Experiment file with a sweep, FILE.py or FILE.py:ARGUMENTS; "
        "--config.FIELD=VALUE overrides a field in all runs.",
        "workdir": "Folder of the sweep; the report is written into WORKDIR/report.",
    },
)


def main(argv: Sequence[str]) -> None:
    """Checks all runs, then runs them and prints a table."""
    del argv
    from ml_collections import config_flags

    from warp_translate.experiment import ablation, build, sweep
    from warp_translate.experiment.runner import LOG_FILE

    config, workdir = experiment(), str(WORKDIR.value)
    build.check(config)
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    found = sweep.read_sweep(file, seeds=_SEEDS.value)
    chosen = ablation.choose(found, _ONLY.value, overrides)
    every = [f"--config.{field}={sweep.as_text(value)}" for field, value in overrides.items()]
    commands = {run.name: run.flags(file, workdir, every) for run in chosen}
    if _PRINT.value:
        for words in commands.values():
            print(shlex.join(["warp-translate", "train", *words]))
        return
    storage.check_folder(workdir, "--workdir")
    ablation.prepare(config, found, {run.variant for run in chosen})
    folder, steps = storage.to_path(workdir), config.training.total_steps
    jobs = [ablation.job(folder / name, words, steps) for name, words in commands.items()]
    record = ablation.Record(folder, found, file)
    failed, stopped = ablation.run_all(jobs, record, at_once=_JOBS.value, stream=sys.stderr)
    if stopped is not None:
        print("stopped; rerun to resume", file=sys.stderr)
        sys.exit(status.INTERRUPTED if stopped == signal.SIGINT else status.PREEMPTED)
    ablation.collect(workdir)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(jobs)} runs failed, see {LOG_FILE} in their folders: "
            f"{', '.join(failed)}; rerun to retry them"
        )


if __name__ == "__main__":
    program.run(main, COMMAND)
