"""Takes what was trained out of a run, for the commands that use it."""

import dataclasses
from typing import Any, Generic, TypeVar, cast

import jax
import ml_collections

from warp_translate.cli import build, program
from warp_translate.cli.task import Training, TranslationTraining, abstract_params
from warp_translate.errors import UserError
from warp_translate.training.checkpoint import Checkpointer
from warp_translate.types import PyTree

Kind = TypeVar("Kind", bound=Training)


@dataclasses.dataclass(frozen=True)
class Trained(Generic[Kind]):
    """The results as a run left them.

    Attributes:
      config: the run's configuration.
      training: the networks; the factor of generators is the one asked for.
      params: moving averages of their parameters by name, arrays of one device.
      step: steps done.
      figures: what was measured at that step.
    """

    config: ml_collections.ConfigDict
    training: Kind
    params: dict[str, PyTree]
    step: int
    figures: dict[str, float]


def trained_generators() -> Trained[TranslationTraining]:
    """Restores the generators that the flags ``--workdir``, ``--step`` and ``--factor`` name.

    Raises:
      UserError: as `trained`, or the run has trained a classifier.
    """
    found = trained()
    if found.config.method.training == "classifier":
        raise UserError(
            f"the run in {program.WORKDIR.value} has trained a classifier, which translates "
            "nothing: give a run of generators"
        )
    return cast(Trained[TranslationTraining], found)


def trained() -> Trained[Training]:
    """Restores what the flags ``--workdir``, ``--step`` and ``--factor`` name.

    Raises:
      UserError: a flag is missing or wrong, or there is no such run or step.
    """
    if program.WORKDIR.value is None:
        raise UserError("--workdir=FOLDER is missing: the folder of a run of warp-translate train")
    which: Any = program.STEP.value
    if which not in ("best", "latest"):
        try:
            which = int(which)
        except ValueError:
            raise UserError(f"--step={which} is neither best, latest nor a number") from None
    if program.FACTOR.value is not None and program.FACTOR.value < 1:
        raise UserError(f"--factor={program.FACTOR.value} must be at least 1")
    config = build.load(program.WORKDIR.value)
    if program.FACTOR.value is not None and config.method.training == "classifier":
        raise UserError(f"--factor={program.FACTOR.value} is for generators, not for a classifier")
    training = build.training(config, factor=program.FACTOR.value)
    checkpointer = Checkpointer(
        program.WORKDIR.value, best_metric=config.evaluation.best_metric, read_only=True
    )
    step = checkpointer.resolve(which)
    wanted = abstract_params(training, config.data.size)
    part = checkpointer.restore_part(step, {name: {"ema": ema} for name, ema in wanted.items()})
    figures = checkpointer.metrics(step)
    checkpointer.close()
    params = {name: jax.device_put(part[name]["ema"]) for name in wanted}
    return Trained(config, training, params, step, figures)
