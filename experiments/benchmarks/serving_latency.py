"""What a translation takes by ONNX Runtime and by jitted jax, by size and factor, in turns.

    python -m experiments.benchmarks.serving_latency --bundle=bundles/man-woman

Beside it: how long a fresh process takes to its first answer, with each engine.
"""

import functools
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
from absl import app, flags

from experiments.benchmarks import measure
from warp_translate.serving import bundle as bundles
from warp_translate.serving import engine as engines

_BUNDLE = flags.DEFINE_string("bundle", None, "The bundle.", required=True)
_SIZES = flags.DEFINE_list(
    "sizes", ["256x256", "512x512", "1080x1920", "2160x3840"], "HEIGHTxWIDTH."
)
_FACTORS = flags.DEFINE_list("factors", ["2", "4", "8"], "Factors.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Turns that are timed.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the table.")

_FIRST = """
import sys, numpy as np
from warp_translate.serving import bundle, engine
opened = bundle.read(sys.argv[1])
engine.open_engine(opened, sys.argv[2]).translate(np.zeros((1, 256, 256, 3), np.uint8))
"""


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    if len(argv) > 1:
        raise app.UsageError(f"flags only, got {argv[1:]}")
    opened = bundles.read(_BUNDLE.value)
    for backend in ("onnx", "jax"):
        seconds = statistics.median(_first_answer(backend) for _ in range(3))
        print(f"a fresh process to its first answer at 256 x 256, {backend}: {seconds:.1f} s")
    made = {"onnx": engines.OnnxEngine(opened), "jax": engines.JaxEngine(opened)}
    rows = []
    for word in _SIZES.value:
        height, width = map(int, word.split("x"))
        image = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
        for factor in map(int, _FACTORS.value):
            run = functools.partial(_translate, image=image, factor=factor)
            seconds_of = measure.take_turns(
                {name: functools.partial(run, engine) for name, engine in made.items()},
                _REPEATS.value,
            )
            rows.append(
                {
                    "size": word,
                    "factor": factor,
                    "onnx ms here": 1000 * statistics.median(seconds_of["onnx"]),
                    "onnx / jax": measure.ratio(seconds_of["onnx"], seconds_of["jax"]),
                }
            )
    about = measure.environment("onnxruntime", repeats=_REPEATS.value)
    measure.publish(about, rows, _OUTPUT.value)


def _translate(engine: engines.Engine, *, image: np.ndarray, factor: int) -> np.ndarray:
    return engine.translate(image, factor).output


def _first_answer(backend: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", _FIRST, _BUNDLE.value, backend], check=True)
    return time.perf_counter() - begin


if __name__ == "__main__":
    app.run(main)
