"""A training with its data and its evaluation, as the commands use it."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from warp_translate.data.records import Skipped
from warp_translate.progress import Progress
from warp_translate.training.base import Training
from warp_translate.types import PyTree


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A table of images.

    Attributes:
      rows: a list of uint8 images for each example.
      columns: titles of the columns.
      wheel_magnitude: displacement in pixels shown in full color; None without displacements.
      title: title of the sheet.
      footer: text below.
    """

    rows: list[list[np.ndarray]]
    columns: tuple[str, ...]
    wheel_magnitude: float | None
    title: str
    footer: str


@dataclasses.dataclass(frozen=True)
class Report:
    """Results of an evaluation.

    Attributes:
      scalars: metrics by name.
      table: text for a terminal.
      sheets: sheets by file name without suffix.
    """

    scalars: dict[str, float]
    table: str
    sheets: dict[str, Sheet]


@dataclasses.dataclass(frozen=True)
class Task:
    """A training with its data and evaluation.

    Attributes:
      training: networks, losses and step.
      data: one line about the data.
      shown: metrics for the progress line.
      batches: returns the training batches from a step on.
      protocol: everything that scores need to share to compare, for JSON.
      scores: names of all metrics of `evaluate`, also optional ones.
      tested: images per evaluation.
      evaluate: evaluates parameters by name, with the number of sheet rows and the progress. All
        processes must call it, and get the same report.
      skipped: training examples that could not be read.
      watch: returns warnings about the metrics of a step.
    """

    training: Training
    data: str
    shown: tuple[str, ...]
    batches: Callable[[int], Iterator[Mapping[str, Any]]]
    protocol: dict[str, Any]
    scores: tuple[str, ...]
    tested: int
    evaluate: Callable[[Mapping[str, PyTree], int, Progress], Report]
    skipped: Skipped = dataclasses.field(default_factory=Skipped)
    watch: Callable[[Mapping[str, float]], list[str]] = lambda scalars: []


def result_params(training: Training, state: PyTree) -> dict[str, PyTree]:
    """The moving averages of the trained networks of a state, by name."""
    return {name: getattr(state, name).ema for name in training.results}


def abstract_params(training: Training, size: int) -> dict[str, PyTree]:
    """Shapes and dtypes of `result_params`."""
    state = jax.eval_shape(lambda: training.init(jax.random.key(0), size))
    return result_params(training, state)
