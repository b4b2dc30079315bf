"""Opens and restores the run that the flags name."""

import contextlib
from collections.abc import Iterator
from typing import Any, cast

from absl import flags

from warp_translate.cli import program
from warp_translate.errors import UserError
from warp_translate.experiment.restore import Run, Trained, open_run_in
from warp_translate.training.base import GeneratorTraining, Training

BEST_BY = flags.DEFINE_string(
    "best_by",
    None,
    "Metric that decides which step is the best, test/output/ssim for instance; by default the one "
    "of the run's configuration.",
)


def trained_generators() -> Trained[GeneratorTraining]:
    """Restores the generators that the flags name, see `trained`.

    Raises:
      UserError: as `trained`, or the run has trained a classifier.
    """
    found = trained()
    if found.config.method.training == "classifier":
        raise UserError(
            f"the run in {program.WORKDIR.value} has trained a classifier, which translates "
            "nothing: give a run of generators"
        )
    return cast(Trained[GeneratorTraining], found)


def trained() -> Trained[Training]:
    """Restores what the flags ``--workdir``, ``--step``, ``--best_by`` and ``--factor`` name.

    Raises:
      UserError: a flag is missing or wrong, or there is no such run or step.
    """
    which: Any = program.STEP.value
    if which not in ("best", "latest"):
        try:
            which = int(which)
        except ValueError:
            raise UserError(f"--step={which} is neither best, latest nor a number") from None
    if BEST_BY.value is not None and which != "best":
        raise UserError(f"--best_by={BEST_BY.value} is for --step=best, not for --step={which}")
    with open_run() as run:
        return run.restore(run.step(which))


@contextlib.contextmanager
def open_run() -> Iterator[Run]:
    """Opens the run that the flags ``--workdir``, ``--best_by`` and ``--factor`` name.

    Yields:
      The run.

    Raises:
      UserError: a flag is missing or wrong, or there is no such run.
    """
    if program.WORKDIR.value is None:
        raise UserError("--workdir=FOLDER is missing: the folder of a run of warp-translate train")
    if program.FACTOR.value is not None and program.FACTOR.value < 1:
        raise UserError(f"--factor={program.FACTOR.value} must be at least 1")
    with open_run_in(
        program.WORKDIR.value, factor=program.FACTOR.value, best_by=BEST_BY.value
    ) as run:
        yield run
