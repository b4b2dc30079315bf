"""The task of each kind of training."""

from collections.abc import Callable

import ml_collections

from warp_translate.experiment import build
from warp_translate.experiment.classifier_task import classifier_task
from warp_translate.experiment.paired_task import paired_task
from warp_translate.experiment.task import Task
from warp_translate.experiment.unpaired_task import unpaired_task
from warp_translate.training.base import Training

_TASKS: dict[str, Callable[..., Task]] = {
    "paired": paired_task,
    "cycle": unpaired_task,
    "contrastive": unpaired_task,
    "classifier": classifier_task,
}


def open_task(config: ml_collections.ConfigDict, training: Training) -> Task:
    """Builds a task; opens its data set.

    Args:
      config: the configuration, checked.
      training: from `build.training`, maybe at another factor.

    Raises:
      UserError: the data set does not fit the configuration, or cannot be read.
    """
    build.check_data(config)
    return _TASKS[config.method.training](config, training)
