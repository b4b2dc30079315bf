"""Finds the task that a configuration means."""

import ml_collections

from warp_translate.experiment import build
from warp_translate.experiment.classifier_task import classifier_task
from warp_translate.experiment.paired_task import paired_task
from warp_translate.experiment.task import Task
from warp_translate.experiment.unpaired_task import unpaired_task

_TASKS = {
    "paired": paired_task,
    "cycle": unpaired_task,
    "contrastive": unpaired_task,
    "classifier": classifier_task,
}


def open_task(config: ml_collections.ConfigDict, *, factor: int | None = None) -> Task:
    """Builds the task of a configuration, which opens its data set.

    Args:
      config: the configuration.
      factor: how many times smaller the trunk's image is; the configuration's by default. A
        classifier has none.

    Returns:
      The task.

    Raises:
      UserError: a mistake in the configuration or the data.
    """
    build.check(config)
    build.check_data(config)
    return _TASKS[config.method.training](config, factor=factor)
