"""The training loop: evaluate, save, fetch, step. It is handed callables and knows no model."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from warp_translate.errors import UserError
from warp_translate.training.logging import Logger, Progress
from warp_translate.types import PyTree

Scalars = dict[str, float]


class TrainingDiverged(UserError):
    """A metric became NaN or infinite, so the parameters are lost from that step on."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
      scalars: metrics by name.
      images: uint8 ``[H, W, 3]`` pictures by name.
    """

    scalars: Scalars
    images: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When things happen, in steps done.

    Attributes:
      total_steps: where the run ends.
      log_every: steps between fetches of the metrics, which wait for the device.
      evaluate_every: steps between evaluations; the last step is always evaluated.
      save_every: steps between checkpoints; the last step is always saved.
    """

    total_steps: int
    log_every: int
    evaluate_every: int
    save_every: int

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise UserError(
                    f"config.training.{field.name} is {getattr(self, field.name)}; it must be at "
                    "least 1"
                )

    def due(self, step: int, every: int) -> bool:
        """Whether something that is done every so often is due when ``step`` steps are done."""
        return step % every == 0 or step == self.total_steps


def run(
    state: PyTree,
    *,
    start_step: int,
    schedule: Schedule,
    step: Callable[[PyTree, Mapping[str, Any]], tuple[PyTree, PyTree]],
    batches: Iterator[Mapping[str, Any]],
    evaluate: Callable[[PyTree], Evaluation],
    save: Callable[[int, PyTree, Scalars | None], None],
    logger: Logger,
    progress: Progress,
    watch: Callable[[Scalars], Iterable[str]] = lambda scalars: (),
) -> PyTree:
    """Trains from ``start_step`` to the end of the schedule.

    Args:
      state: the state after ``start_step`` steps; it may be donated to ``step``.
      start_step: steps done already. What was due at this step was done by the run that made it.
      schedule: when things happen.
      step: maps state and batch to the next state and metrics, scalars.
      batches: from the batch of step ``start_step`` on.
      evaluate: measures a state.
      save: keeps a state, with its evaluation if there was one at this step.
      logger: where scalars and pictures go.
      progress: what tells the user how far it is.
      watch: looks at the metrics of a step and returns warnings, which the user is told.

    Returns:
      The state after the last step.

    Raises:
      TrainingDiverged: a metric is not finite. The state is not saved.
    """
    saved = start_step if start_step else None
    for done in range(start_step, schedule.total_steps + 1):
        if done > start_step:
            evaluation = None
            if schedule.due(done, schedule.evaluate_every):
                evaluation = evaluate(state)
                logger.write_scalars(done, evaluation.scalars)
                logger.write_images(done, evaluation.images)
            if schedule.due(done, schedule.save_every):
                save(done, state, evaluation.scalars if evaluation else None)
                saved = done
        if done == schedule.total_steps:
            break
        state, device_metrics = step(state, next(batches))
        now = done + 1
        reports = None
        # Before a save the metrics are looked at in any case: a lost state must not be kept.
        if any(
            schedule.due(now, every)
            for every in (schedule.log_every, schedule.save_every, schedule.evaluate_every)
        ):
            reports = {name: float(value) for name, value in jax.device_get(device_metrics).items()}
            _check_finite(reports, now, saved)
            logger.write_scalars(now, reports)
            for warning in watch(reports):
                progress.say(f"warning at step {now}: {warning}")
        progress.update(now, reports)
    progress.close()
    logger.flush()
    return state


def _check_finite(reports: Scalars, step: int, saved: int | None) -> None:
    lost = [f"{name} is {value}" for name, value in reports.items() if not math.isfinite(value)]
    if lost:
        kept = (
            "nothing was saved before" if saved is None else f"the last checkpoint is step {saved}"
        )
        raise TrainingDiverged(
            f"training diverged by step {step}: {', '.join(lost[:3])} ({kept}); lower "
            "config.optim.lr or the weight of the loss that grew, see metrics.jsonl"
        )
