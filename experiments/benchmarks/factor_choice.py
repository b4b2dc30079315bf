"""Whether the factor that is chosen for a budget keeps it, alone and on a machine that is loaded.

    python -m experiments.benchmarks.factor_choice --bundle=bundles/man-woman

The bundle is timed first, as ``warp-translate device`` does. Then for every size and budget the
chosen factor runs, beside the next smaller one, which should be too slow. At last other processes
take all cores: the chooser is told every time, as the server tells it, and has to move up, and back
when they are gone.
"""

import itertools
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
from absl import app, flags

from experiments.benchmarks import measure
from warp_translate.serving import bundle as bundles
from warp_translate.serving import latency_model
from warp_translate.serving.engine import Engine, OnnxEngine

_BUNDLE = flags.DEFINE_string("bundle", None, "The bundle.", required=True)
_SIZES = flags.DEFINE_list("sizes", ["256x256", "512x512", "1080x1920"], "HEIGHTxWIDTH.")
_BUDGETS = flags.DEFINE_list("budgets", ["60", "150", "400"], "Milliseconds.")
_REPEATS = flags.DEFINE_integer("repeats", 30, "Translations that are timed.")
_MOST = flags.DEFINE_integer("most", 200, "Translations in which the factor has to move.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the table.")


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    if len(argv) > 1:
        raise app.UsageError(f"flags only, got {argv[1:]}")
    engine = OnnxEngine(bundles.read(_BUNDLE.value))
    model = latency_model.calibrate(engine, note=lambda line: print(line, file=sys.stderr))
    factors = engine.bundle.factors
    rows = []
    for word, budget in itertools.product(_SIZES.value, map(float, _BUDGETS.value)):
        height, width = map(int, word.split("x"))
        chosen = latency_model.FactorChooser(model, factors, budget).choose(height, width)
        place = factors.index(chosen.factor)
        found = _percentile(engine, height, width, chosen.factor)
        smaller = _percentile(engine, height, width, factors[place - 1]) if place else None
        rows.append(
            {
                "size": word,
                "budget ms": budget,
                "factor": chosen.factor,
                "expected to meet": chosen.meets,
                "expected ms": chosen.milliseconds,
                "90 % within ms": found,
                "met": found <= budget,
                "next smaller factor ms": smaller if smaller is not None else "",
            }
        )
    about = measure.environment("onnxruntime", repeats=_REPEATS.value)
    measure.publish(about, rows, _OUTPUT.value)
    _under_load(engine, model)


def _under_load(engine: Engine, model: latency_model.LatencyModel) -> None:
    """Loads all cores while one size is translated, and prints when the factor moved."""
    height, width = map(int, _SIZES.value[1].split("x"))
    factors = engine.bundle.factors
    # A budget that the second smallest factor meets with little to spare.
    budget = 1.2 * model.milliseconds(height, width, factors[1])
    chooser = latency_model.FactorChooser(model, factors, budget)
    alone = chooser.choose(height, width).factor
    print(f"{height} x {width}, {budget:.0f} ms: factor {alone} alone", flush=True)
    with multiprocessing.get_context("spawn").Pool(2 * latency_model.find_device().cores) as pool:
        for _ in range(2 * latency_model.find_device().cores):
            pool.apply_async(_burn)
        time.sleep(2)
        _watch(engine, chooser, height, width, "loaded", lambda factor: factor > alone)
        pool.terminate()
    _watch(engine, chooser, height, width, "alone again", lambda factor: factor == alone)


def _watch(
    engine: Engine,
    chooser: latency_model.FactorChooser,
    height: int,
    width: int,
    when: str,
    reached: Callable[[int], bool],
) -> None:
    image = _image(height, width)
    seen = []
    for count in range(_MOST.value):
        factor = chooser.choose(height, width).factor
        if not seen or seen[-1][1] != factor:
            seen.append((count, factor))
        begin = time.perf_counter()
        engine.translate(image, factor)
        chooser.observe(height, width, factor, 1000 * (time.perf_counter() - begin))
        if reached(factor) and count >= seen[-1][0] + 10:
            break
    steps = ", ".join(f"factor {factor} from translation {count + 1}" for count, factor in seen)
    print(f"{when}: {steps}", flush=True)


def _percentile(engine: Engine, height: int, width: int, factor: int) -> float:
    image = _image(height, width)
    engine.translate(image, factor)
    seconds = []
    for _ in range(_REPEATS.value):
        begin = time.perf_counter()
        engine.translate(image, factor)
        seconds.append(time.perf_counter() - begin)
    return 1000 * float(np.percentile(seconds, 90))


def _image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)


def _burn() -> None:
    while True:
        pass


if __name__ == "__main__":
    app.run(main)
