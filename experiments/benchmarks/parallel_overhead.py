"""What the host spends on a step under pmap and shard_map, in one process and in two.

    python -m experiments.benchmarks.parallel_overhead

The state is that of a real training with its hundreds of arrays, the step does next to nothing to
each, so that what is timed is handing them over: one time until the call returns, one until the
devices are done, per step over a run of steps. Both mappings take turns, and are compared by the
median of the ratios in the same turn. Beside it: the check that the replicas agree, once a turn.

With ``--part=loop`` the training loop is compared with the bare steps that it runs, at the
quickstart's size: alone, around steps that take no time; around the real steps with batches that
are ready; and with batches that are read, whose readers take part of the cores where those are the
device as well.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from experiments import base, quickstart
from experiments.benchmarks import measure
from warp_translate.experiment import build, tasks
from warp_translate.training import distributed, loop
from warp_translate.training.logging import JsonLinesLogger
from warp_translate.training.parallel import MappingKind, Replicas, mean_over_devices
from warp_translate.training.progress import Progress
from warp_translate.training.throughput import StepClock
from warp_translate.types import Array, PyTree

_PART = flags.DEFINE_enum("part", "overhead", ["overhead", "loop"], "What to measure.")
_KIND = flags.DEFINE_enum("kind", "cycle", ["paired", "cycle"], "Whose state is handed over.")
_STEPS = flags.DEFINE_integer("steps", 50, "Steps of a turn.")
_REPEATS = flags.DEFINE_integer("repeats", 15, "Turns that are timed.")
_DEVICES = flags.DEFINE_integer("devices", 2, "Fake CPU devices of each process.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the table.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "Set by the program for its second half.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Set by the program for its second half.")

_MAPPINGS: tuple[MappingKind, ...] = ("pmap", "shard_map")


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    if len(argv) > 1:
        raise app.UsageError(f"flags only, got {argv[1:]}")
    if _COORDINATOR.value:
        distributed.connect(_COORDINATOR.value, 2, _PROCESS_ID.value)
        rows = _overhead(2)
        if distributed.is_writer():
            print(json.dumps(rows))
        return
    if _PART.value == "loop":
        rows = _loop()
    else:
        # Together and before this process touches a device.
        two = _in_two_processes()
        rows = [*_overhead(1), *two]
    about = measure.environment(
        kind=_KIND.value, steps=_STEPS.value, repeats=_REPEATS.value, devices=_DEVICES.value
    )
    measure.publish(about, rows, _OUTPUT.value)


def _overhead(processes: int) -> list[dict[str, Any]]:
    config = base.get_config(_KIND.value)
    config.data.size = 64
    config.generator.width = config.discriminator.width = 4
    if _KIND.value == "cycle":
        config.method.pool_size = 2
    training = build.training(config)
    first = build.initial_state(training, config)
    root = build.root_key(config)
    turns, checks = {}, {}
    for mapping in _MAPPINGS:
        replicas = Replicas(training.axes, mapping=mapping)
        images = np.zeros((replicas.local_count, 8, 8, 3), np.uint8)
        holder = [replicas.initial(first)]
        checks[mapping] = lambda r=replicas, h=holder: r.disagreements(h[0])
        turns[mapping] = _turn(
            replicas.map(_touch),
            holder,
            lambda r=replicas, i=images: r.place_batches([{"source": i, "target": i}]),
            root,
        )
    found: dict[str, list[tuple[float, float]]] = {mapping: [] for mapping in _MAPPINGS}
    check_seconds: dict[str, list[float]] = {mapping: [] for mapping in _MAPPINGS}
    for repeat in range(_REPEATS.value + 1):
        for mapping, turn in turns.items():
            times = turn()
            begin = time.perf_counter()
            assert not checks[mapping]()
            if repeat:
                found[mapping].append(times)
                check_seconds[mapping].append(time.perf_counter() - begin)
    until_return = {name: [each[0] for each in times] for name, times in found.items()}
    until_done = {name: [each[1] for each in times] for name, times in found.items()}
    return [
        {
            "processes": processes,
            "mapping": mapping,
            "arrays": len(jax.tree.leaves(first)),
            "call ms": 1000 * statistics.median(until_return[mapping]),
            "step ms": 1000 * statistics.median(until_done[mapping]),
            "step / pmap": measure.ratio(until_done[mapping], until_done["pmap"]),
            "check ms": 1000 * statistics.median(check_seconds[mapping]),
        }
        for mapping in _MAPPINGS
    ]


def _touch(
    state: PyTree, batch: Mapping[str, Array], root: Array, *, axis_name: str | None
) -> tuple[PyTree, PyTree]:
    """Changes every array, and sums one number over the devices, as a step does."""
    mean = mean_over_devices(batch["source"].astype(jnp.float32).mean(), axis_name)
    return jax.tree.map(lambda leaf: leaf + mean.astype(leaf.dtype), state), {"mean": mean}


def _turn(
    step: Callable[..., tuple[PyTree, PyTree]],
    holder: list[PyTree],
    batch: Callable[[], Any],
    root: Array,
) -> Callable[[], tuple[float, float]]:
    def turn() -> tuple[float, float]:
        """Seconds a step until the calls have returned, and until the devices are done."""
        calls, begin = 0.0, time.perf_counter()
        metrics: PyTree = None
        for _ in range(_STEPS.value):
            placed = batch()
            called = time.perf_counter()
            holder[0], metrics = step(holder[0], placed, root)
            calls += time.perf_counter() - called
        jax.block_until_ready((holder[0], metrics))
        return calls / _STEPS.value, (time.perf_counter() - begin) / _STEPS.value

    return turn


def _in_two_processes() -> list[dict[str, Any]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={_DEVICES.value}",
    }
    children = [
        subprocess.Popen(
            [
                *[sys.executable, "-m", "experiments.benchmarks.parallel_overhead"],
                *[f"--coordinator=127.0.0.1:{port}", f"--process_id={number}"],
                *[f"--kind={_KIND.value}", f"--steps={_STEPS.value}"],
                f"--repeats={_REPEATS.value}",
            ],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    texts = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise RuntimeError(f"a process failed: {[child.returncode for child in children]}")
    rows = json.loads(texts[0].splitlines()[-1])
    # JSON knows no tuples.
    return [{**row, "step / pmap": tuple(row["step / pmap"])} for row in rows]


def _loop() -> list[dict[str, Any]]:
    """The quickstart's steps, bare and in the loop, in turns from the same state on."""
    config = quickstart.get_config()
    task = tasks.open_task(config, build.training(config))
    training = task.training
    replicas = build.replicas(training, config)
    step = replicas.map(training.step)
    root = build.root_key(config)
    holder = [replicas.initial(build.initial_state(training, config))]
    batches = task.batches(0)
    ready = [next(batches) for _ in range(8)]

    def again() -> Iterator[Mapping[str, Any]]:
        while True:
            yield from ready

    def run_step(state: PyTree, fetched: list[Mapping[str, Any]]) -> tuple[PyTree, PyTree]:
        return step(state, replicas.place_batches(fetched), root)

    _, known = run_step(replicas.initial(build.initial_state(training, config)), [ready[0]])

    def skip_step(state: PyTree, fetched: list[Mapping[str, Any]]) -> tuple[PyTree, PyTree]:
        replicas.place_batches(fetched)
        return state, known

    def bare() -> float:
        placed = [replicas.place_batches([batch]) for batch in ready]
        begin = time.perf_counter()
        metrics: PyTree = None
        for number in range(_STEPS.value):
            holder[0], metrics = step(holder[0], placed[number % len(placed)], root)
        jax.block_until_ready((holder[0], metrics))
        return (time.perf_counter() - begin) / _STEPS.value

    def looped(
        step: Callable[..., tuple[PyTree, PyTree]], source: Iterator[Mapping[str, Any]]
    ) -> float:
        begin = time.perf_counter()
        with open(os.devnull, "w") as nowhere, tempfile.TemporaryDirectory() as folder:
            holder[0] = loop.run(
                holder[0],
                start_step=0,
                schedule=loop.Schedule(
                    _STEPS.value, config.training.log_every, _STEPS.value, _STEPS.value
                ),
                step=step,
                batches=source,
                evaluate=lambda state: loop.Evaluation({}, {}),
                save=lambda *_: None,
                kept=lambda: None,
                logger=JsonLinesLogger(Path(folder) / "metrics.jsonl"),
                progress=Progress(_STEPS.value, batch_size=1, stream=nowhere),
                clock=StepClock(config.training.global_batch),
                disagreements=replicas.disagreements,
            )
            jax.block_until_ready(holder[0])
        return (time.perf_counter() - begin) / _STEPS.value

    runs: dict[str, Callable[[], float]] = {
        "bare steps": bare,
        "the loop alone": lambda: looped(skip_step, again()),
        "in the loop, batches ready": lambda: looped(run_step, again()),
        "in the loop, batches read": lambda: looped(run_step, batches),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(_REPEATS.value + 1):
        for name, run in runs.items():
            spent = run()
            if repeat:  # The first turn compiles.
                seconds[name].append(spent)
    return [
        {
            "steps": name,
            "step ms here": 1000 * statistics.median(values),
            "step / bare": measure.ratio(values, seconds["bare steps"]),
        }
        for name, values in seconds.items()
    ]


if __name__ == "__main__":
    if "--part=loop" not in sys.argv:
        # Before jax starts its devices; the loop is measured on one, as the quickstart runs.
        wanted = [word.split("=")[1] for word in sys.argv if word.startswith("--devices=")]
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        os.environ.setdefault(
            "XLA_FLAGS", f"--xla_force_host_platform_device_count={(wanted or ['2'])[0]}"
        )
    app.run(main)
