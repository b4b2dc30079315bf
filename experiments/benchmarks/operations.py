"""The operations that take longest in a training step or a translation, by JAX's profiler.

    python -m experiments.benchmarks.operations --config=experiments/retouch.py
    python -m experiments.benchmarks.operations --config=experiments/paired.py \
        --translate=2160x3840 --config.method.factor=8 --config.generator.dtype=bfloat16

On any device; the images are noise. Operations whose JAX names differ only in numbers are added.
Times are those of the profiled runs, without the waits between operations.
"""

import collections
import dataclasses
import gzip
import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import app, flags

from experiments.benchmarks import measure
from launch.compiled import read_program
from warp_translate.cli.config_flag import CONFIG, experiment
from warp_translate.evaluation import cost
from warp_translate.experiment import build
from warp_translate.types import PyTree

_TRANSLATE = flags.DEFINE_string(
    "translate", None, "HEIGHTxWIDTH of an image to translate, in place of a training step."
)
_SHOWN = flags.DEFINE_integer("shown", 25, "Number of rows.", lower_bound=1)


def benchmark(repeats: int) -> measure.Table:
    """Compiles the program, times it and profiles two runs."""
    if CONFIG.value is None:
        raise app.UsageError("operations needs --config=experiments/FILE.py")
    config = experiment()
    compiled, run = _step(config) if _TRANSLATE.value is None else _translation(config)
    text = compiled.as_text()
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - begin)
    milliseconds = _profile(run)
    groups = _by_origin(milliseconds, text)
    total = sum(milliseconds.values())
    rows = [
        {"ms": found, "share": found / total, "operation": kind, "origin": origin}
        for (kind, origin), found in groups.most_common(_SHOWN.value)
    ]
    notes = {
        "median ms": 1e3 * float(np.median(times)),
        "profiled ms": total,
        "operations": len(milliseconds),
        "kernels": len(read_program(text).kernels),
    }
    return measure.Table(rows, notes=notes)


def _step(config: ml_collections.ConfigDict) -> tuple[Any, Callable[[], PyTree]]:
    training, root = build.training(config), build.root_key(config)
    state = build.initial_state(training, config)
    rng = np.random.default_rng(0)
    batch = {
        name: rng.integers(0, 256, images.shape, np.uint8)
        for name, images in build.batch_shapes(config, config.training.global_batch).items()
    }
    compiled = jax.jit(training.step, donate_argnums=0).lower(state, batch, root).compile()

    def run() -> PyTree:
        nonlocal state
        state, metrics = compiled(state, batch, root)
        return metrics

    return compiled, run


def _translation(config: ml_collections.ConfigDict) -> tuple[Any, Callable[[], PyTree]]:
    training = build.generator_training(config)
    params = build.initial_state(training, config).generator.params
    shape = 1, *map(int, _TRANSLATE.value.split("x")), 3
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    options = dataclasses.asdict(training.method)
    translate = cost.translation(training.generator, options.pop("factor"), **options)
    compiled = jax.jit(translate).lower(params, image).compile()
    arguments = jax.device_put((params, image))
    return compiled, lambda: compiled(*arguments)


def _profile(run: Callable[[], PyTree]) -> Mapping[str, float]:
    """Milliseconds of one run by the compiled program's operation."""
    runs = 2
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(runs):
                jax.block_until_ready(run())
        (trace,) = Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    return {name: each / runs for name, each in measure.own_milliseconds(events).items()}


def _by_origin(
    milliseconds: Mapping[str, float], text: str
) -> "collections.Counter[tuple[str, str]]":
    """Adds operations by kind and JAX name, both without numbers."""
    origins = dict(re.findall(r'%([\w.\-]+) = .*?op_name="([^"]*)"', text))
    found: collections.Counter[tuple[str, str]] = collections.Counter()
    for name, each in milliseconds.items():
        origin = re.sub(r"_\d+", "", "/".join(origins.get(name, "").split("/")[-4:]))
        found[re.sub(r"[.\d]+$", "", name), origin] += each
    return found


if __name__ == "__main__":
    measure.run(benchmark, repeats=5)
