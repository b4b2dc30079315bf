"""Time and memory of a step of each kind of training and of each way to save memory, in one run.

    python -m experiments.benchmarks.training_step --size=64 --batch=4
    python -m experiments.benchmarks.training_step --trainings=paired --remat=none,blocks,all

The same networks, size and batch for all. Times are taken in turns, and what is compared is the
median of the ratios to the first row's step in the same turn. Memory is the compiled program's own:
what it is handed, what it returns, and what it needs in between.
"""

import functools
import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import app, flags

from experiments import base
from experiments.benchmarks import measure
from warp_translate.evaluation import cost
from warp_translate.experiment import build
from warp_translate.types import PyTree

_TRAININGS = flags.DEFINE_list("trainings", ["paired", "cycle", "contrastive"], "Kinds of them.")
_REMAT = flags.DEFINE_list("remat", ["none"], "What gradients compute anew, of each.")
_SIZE = flags.DEFINE_integer("size", 64, "Side of the images in pixels.")
_BATCH = flags.DEFINE_integer("batch", 4, "Examples of each domain.")
_WIDTH = flags.DEFINE_integer("width", 24, "Channels of the generator's first layer.")
_BLOCKS = flags.DEFINE_integer("blocks", 6, "Residual blocks.")
_FACTOR = flags.DEFINE_integer("factor", 2, "How many times smaller the trunk's image is.")
_REPEATS = flags.DEFINE_integer("repeats", 15, "Turns that are timed.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the table.")

_MIB = 2**20


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    if len(argv) > 1:
        raise app.UsageError(f"flags only, got {argv[1:]}")
    steps, memory = {}, {}
    for case in itertools.product(_TRAININGS.value, _REMAT.value):
        steps[case], memory[case] = _step(_config(*case))
    first = next(iter(steps))
    seconds = measure.take_turns(steps, _REPEATS.value, title="steps")
    rows = [
        {
            "training": case[0],
            "remat": case[1],
            "steps/s here": 1.0 / statistics.median(seconds[case]),
            "time / first": measure.ratio(seconds[case], seconds[first]),
            "memory MiB": memory[case] / _MIB,
            "memory / first": memory[case] / memory[first],
        }
        for case in steps
    ]
    about = measure.environment(
        size=_SIZE.value,
        batch=_BATCH.value,
        width=_WIDTH.value,
        blocks=_BLOCKS.value,
        factor=_FACTOR.value,
        repeats=_REPEATS.value,
    )
    measure.publish(about, rows, _OUTPUT.value)


def _config(kind: str, remat: str) -> ml_collections.ConfigDict:
    config = base.get_config(kind)
    config.data.size = _SIZE.value
    config.method.factor = _FACTOR.value
    config.generator.update(width=_WIDTH.value, blocks=_BLOCKS.value, remat=remat)
    config.discriminator.update(width=32, layers=3, scales=1, spectral_norm=False)
    config.adversary.update(r1=0.2, penalty_every=1)
    return config


def _step(config: ml_collections.ConfigDict) -> tuple[Callable[[], PyTree], int]:
    """A function that takes one step from the last one's state, and its memory in bytes."""
    training = build.training(config)
    root = build.root_key(config)
    state: Any = jax.jit(training.init, static_argnums=1)(root, _SIZE.value)
    rng = np.random.default_rng(0)
    shape = (_BATCH.value, _SIZE.value, _SIZE.value, 3)
    batch = {name: rng.integers(0, 256, shape, np.uint8) for name in ("source", "target")}
    compiled = jax.jit(training.step, donate_argnums=0).lower(state, batch, root).compile()
    holder = [state]

    def step(holder: list[Any]) -> PyTree:
        holder[0], metrics = compiled(holder[0], batch, root)
        return metrics

    return functools.partial(step, holder), cost.compiled_needs(compiled).peak_bytes


if __name__ == "__main__":
    app.run(main)
