"""A training with its data and its evaluation, as the commands use it."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from warp_translate.data.records import Skipped
from warp_translate.progress import Headway
from warp_translate.training.base import Training
from warp_translate.types import PyTree


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A table of pictures.

    Attributes:
      rows: one list of uint8 pictures for each example.
      columns: titles.
      wheel_magnitude: displacement in pixels that is shown in full colour; None without any.
      title: what the sheet shows.
      footer: figures.
    """

    rows: list[list[np.ndarray]]
    columns: tuple[str, ...]
    wheel_magnitude: float | None
    title: str
    footer: str


@dataclasses.dataclass(frozen=True)
class Report:
    """What an evaluation found.

    Attributes:
      scalars: metrics by name.
      table: what a terminal shows.
      sheets: by name of the file, without suffix.
    """

    scalars: dict[str, float]
    table: str
    sheets: dict[str, Sheet]


@dataclasses.dataclass(frozen=True)
class Task:
    """A kind of training with its data.

    Attributes:
      training: the networks, losses and steps.
      data: one line about the data.
      shown: metrics that the progress line shows.
      batches: training batches from a step on.
      protocol: all that decides whether its scores compare with those of another, ready for JSON.
      scores: names of what `evaluate` finds, with those that it may leave out.
      tested: images that an evaluation measures.
      evaluate: measures the results, given their parameters by name, the rows of a sheet and whom
        to tell of every batch. All processes must call it, and all get the same.
      skipped: what could not be read of the sets to train on.
      watch: makes warnings of the metrics of a step, one line each.
    """

    training: Training
    data: str
    shown: tuple[str, ...]
    batches: Callable[[int], Iterator[Mapping[str, Any]]]
    protocol: dict[str, Any]
    scores: tuple[str, ...]
    tested: int
    evaluate: Callable[[Mapping[str, PyTree], int, Headway], Report]
    skipped: Skipped = dataclasses.field(default_factory=Skipped)
    watch: Callable[[Mapping[str, float]], list[str]] = lambda scalars: []


def result_params(training: Training, state: PyTree) -> dict[str, PyTree]:
    """The moving averages of all results in a state, by name."""
    return {name: getattr(state, name).ema for name in training.results}


def abstract_params(training: Training, size: int) -> dict[str, PyTree]:
    """Shapes and types of `result_params`, computed without drawing any."""
    state = jax.eval_shape(lambda: training.init(jax.random.key(0), size))
    return result_params(training, state)
