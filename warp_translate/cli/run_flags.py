"""Opens and restores the run that the flags name."""

from contextlib import AbstractContextManager
from typing import cast

from warp_translate.cli.shared_flags import BEST_BY, FACTOR, STEP, WORKDIR
from warp_translate.errors import UserError
from warp_translate.experiment.restore import Run, Trained, open_run_in
from warp_translate.training.base import GeneratorTraining, Training
from warp_translate.training.checkpoint import WhichStep


def open_run() -> AbstractContextManager[Run]:
    """Opens the run that ``--workdir``, ``--best_by`` and ``--factor`` name; see `open_run_in`."""
    return open_run_in(str(WORKDIR.value), factor=FACTOR.value, best_by=BEST_BY.value)


def trained() -> Trained[Training]:
    """Restores the networks that ``--workdir``, ``--step``, ``--best_by`` and ``--factor`` name.

    Raises:
      UserError: a flag is wrong, or there is no such run or step.
    """
    which = STEP.value
    if which not in ("best", "latest") and not which.isdecimal():
        raise UserError(f"--step={which} must be best, latest or a number")
    if BEST_BY.value is not None and which != "best":
        raise UserError(f"--best_by={BEST_BY.value} is for --step=best, not for --step={which}")
    with open_run() as run:
        return run.restore(run.step(cast(WhichStep, int(which) if which.isdecimal() else which)))


def trained_generators() -> Trained[GeneratorTraining]:
    """Restores generators, see `trained`.

    Raises:
      UserError: as `trained`, or the run trained a classifier.
    """
    found = trained()
    if found.config.method.training == "classifier":
        raise UserError(
            f"--workdir={WORKDIR.value} is the run of a classifier, which translates nothing: give "
            "a run of generators"
        )
    return cast(Trained[GeneratorTraining], found)
