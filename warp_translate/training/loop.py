"""The training loop: evaluate, save, fetch, step. It is handed callables and knows no model."""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from warp_translate.errors import Preempted, UserError
from warp_translate.settings import check, setting
from warp_translate.training.logging import Logger
from warp_translate.training.progress import Progress
from warp_translate.training.throughput import StepClock, peak_memory
from warp_translate.types import PyTree

Scalars = dict[str, float]


class TrainingDiverged(UserError):
    """A metric became NaN or infinite, so the parameters are lost from that step on."""


class ReplicasDisagree(UserError):
    """Devices hold different values of what they share, so none of them can be trusted."""


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

    ``steps_per_call`` divides the others. The last step is always evaluated and saved.
    """

    total_steps: int = setting(100_000, "steps of the run", minimum=1)
    log_every: int = setting(100, "steps between logs of the metrics", minimum=1)
    evaluate_every: int = setting(5_000, "steps between evaluations", minimum=1)
    save_every: int = setting(5_000, "steps between checkpoints", minimum=1)
    steps_per_call: int = setting(
        1, "steps that the devices take before the host looks again", minimum=1
    )

    def __post_init__(self) -> None:
        check(self, "training")
        for name in ("total_steps", "log_every", "evaluate_every", "save_every"):
            if getattr(self, name) % self.steps_per_call:
                raise UserError(
                    f"config.training.{name} {getattr(self, name)} must be a multiple of "
                    f"config.training.steps_per_call {self.steps_per_call}"
                )

    def due(self, step: int, every: int) -> bool:
        """Whether something that is done every so often is due when ``step`` steps are done."""
        return step % every == 0 or step == self.total_steps


def run(
    state: PyTree,
    *,
    start_step: int,
    schedule: Schedule,
    step: Callable[[PyTree, list[Mapping[str, Any]]], tuple[PyTree, PyTree]],
    batches: Iterator[Mapping[str, Any]],
    evaluate: Callable[[PyTree], Evaluation | None],
    save: Callable[[int, PyTree, Scalars | None], None],
    kept: Callable[[], int | None],
    logger: Logger,
    progress: Progress,
    clock: StepClock,
    watch: Callable[[Scalars], Iterable[str]] = lambda scalars: (),
    counts: Callable[[], Scalars] = dict,
    disagreements: Callable[[PyTree], list[str]] = lambda state: [],
    leave: Callable[[int], bool] = lambda step: False,
    between: Callable[[int], str | None] = lambda step: None,
) -> PyTree:
    """Trains from ``start_step`` to the end of the schedule.

    Args:
      state: the state after ``start_step`` steps; it may be donated to ``step``.
      start_step: steps done already. What was due at this step was done by the run that made it.
      schedule: when things happen.
      step: maps state and as many batches as ``schedule.steps_per_call`` to the next state and
        metrics, scalars.
      batches: from the batch of step ``start_step`` on.
      evaluate: measures a state; None where that cannot be done.
      save: keeps a state, with its evaluation if there was one at this step.
      kept: the newest step that is safe, for errors.
      logger: where scalars and pictures go.
      progress: what tells the user how far it is.
      clock: takes the time of everything between evaluations and saves.
      watch: looks at the metrics of a step and returns warnings, which the user is told.
      counts: further numbers that are logged with the metrics.
      disagreements: names what the devices should share and do not; asked whenever metrics are
        looked at.
      leave: whether to save and leave; asked after every call of ``step``, with the calls done.
      between: told the steps done before every call of ``step``; what it returns is told the user.

    Returns:
      The state after the last step.

    Raises:
      TrainingDiverged: a metric is not finite. The state is not saved.
      ReplicasDisagree: see ``disagreements``. The state is not saved.
      Preempted: ``leave`` said so. The state is saved.
    """
    asked_to_leave = False
    # Devices are handed steps long before they finish them; only those that are finished count.
    ahead: collections.deque[tuple[int, PyTree]] = collections.deque()
    for done in range(start_step, schedule.total_steps + 1, schedule.steps_per_call):
        if done > start_step:
            clock.pause()
            evaluation = None
            if schedule.due(done, schedule.evaluate_every) and not asked_to_leave:
                evaluation = evaluate(state)
            if evaluation:
                logger.write_scalars(done, evaluation.scalars)
                logger.write_images(done, evaluation.images)
            if schedule.due(done, schedule.save_every) or asked_to_leave:
                save(done, state, evaluation.scalars if evaluation else None)
                logger.flush()  # What goes on from here finds the log of the steps before.
            if asked_to_leave:
                progress.close()
                raise Preempted(done)
        if done == schedule.total_steps:
            break
        if line := between(done):
            progress.say(line)
        with clock.measure("data"):
            fetched = [next(batches) for _ in range(schedule.steps_per_call)]
        with clock.measure("dispatch"):
            state, device_metrics = step(state, fetched)
        clock.count(schedule.steps_per_call)
        now = done + schedule.steps_per_call
        ahead.append((now, device_metrics))
        # At the end there is nothing left to leave.
        asked_to_leave = leave(now // schedule.steps_per_call) and now < schedule.total_steps
        # Before a save the metrics are looked at in any case: a lost state must not be kept.
        if asked_to_leave or any(
            schedule.due(now, every)
            for every in (schedule.log_every, schedule.save_every, schedule.evaluate_every)
        ):
            with clock.measure("wait"):
                while len(ahead) > 1:
                    jax.block_until_ready(ahead[0][1])
                    progress.update(ahead.popleft()[0])
                host_metrics = jax.device_get(ahead.popleft()[1])
            reports = {name: float(value) for name, value in host_metrics.items()}
            _check_finite(reports, now, kept)
            _check_agreement(disagreements(state), now, kept)
            reports |= clock.report() | peak_memory() | counts()
            logger.write_scalars(now, reports)
            for warning in watch(reports):
                progress.say(f"warning at step {now}: {warning}")
            progress.update(now, reports)
        while ahead and _is_finished(ahead[0][1]):
            progress.update(ahead.popleft()[0])
    progress.close()
    return state


def _is_finished(metrics: PyTree) -> bool:
    """Whether the devices have done the step that these metrics are of; waits for nothing."""
    leaves = jax.tree.leaves(metrics)
    # Those of tests may be numpy's.
    return all(leaf.is_ready() for leaf in leaves if hasattr(leaf, "is_ready"))


def _check_finite(reports: Scalars, step: int, kept: Callable[[], int | None]) -> None:
    lost = [f"{name} is {value}" for name, value in reports.items() if not math.isfinite(value)]
    if lost:
        raise TrainingDiverged(
            f"training diverged by step {step}: {', '.join(lost[:3])} ({_safe(kept())}); lower "
            "config.optim.lr or the weight of the loss that grew, see metrics.jsonl"
        )


def _check_agreement(differing: list[str], step: int, kept: Callable[[], int | None]) -> None:
    if differing:
        raise ReplicasDisagree(
            f"by step {step} the devices disagree in {len(differing)} arrays that they share, "
            f"{differing[0]} first ({_safe(kept())}): start again to go on from there; if it comes "
            "back, a device or the network between them is faulty"
        )


def _safe(step: int | None) -> str:
    return "nothing was saved before" if step is None else f"the last checkpoint is step {step}"
