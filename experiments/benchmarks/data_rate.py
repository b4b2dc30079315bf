"""How many pictures a second the data pipeline of an experiment gives, and whether that is enough.

    python -m experiments.benchmarks.data_rate --config=experiments/portraits.py:size=256 \
        --config.data.root=FOLDER

Reads training batches as `train` does, with no training beside them: decoding, resizing, turning
and cropping on this machine's cores. A training that needs fewer pictures a second on as many cores
does not wait for them.
"""

import statistics
import time
from collections.abc import Sequence

from absl import app, flags

from experiments.benchmarks import measure
from warp_translate.cli.config_flag import CONFIG
from warp_translate.experiment import build, tasks

_BATCHES = flags.DEFINE_integer("batches", 20, "Batches of a turn.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Turns that are timed.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the table.")


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    if len(argv) > 1 or CONFIG.value is None:
        raise app.UsageError("give --config=experiments/FILE.py and flags only")
    config = CONFIG.value
    batches = tasks.open_task(config, build.training(config)).batches(0)
    images = 0
    rates = []
    for turn in range(_REPEATS.value + 1):
        begin, images = time.perf_counter(), 0
        for _ in range(_BATCHES.value):
            images += sum(len(array) for array in next(batches).values())
        if turn:  # The first empties what was read ahead.
            rates.append(images / (time.perf_counter() - begin))
    low, _, high = statistics.quantiles(rates, n=4)
    about = measure.environment(data=config.data.name, repeats=_REPEATS.value)
    row = {
        "px": config.data.size,
        "batch": config.training.global_batch,
        "images/s": (statistics.median(rates), low, high),
    }
    measure.publish(about, [row], _OUTPUT.value)


if __name__ == "__main__":
    app.run(main)
