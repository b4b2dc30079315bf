"""Host time of a training step under pmap and shard_map, in one process and in two.

    python -m experiments.benchmarks.parallel_overhead

The step hands over the state of a real training, hundreds of arrays, and computes next to nothing.
Per step of a round: the time until the calls return, and until the devices are done. Besides: the
time to compare the replicas' bits, once per round.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import base
from experiments.benchmarks import measure
from warp_translate.experiment import build
from warp_translate.training import distributed
from warp_translate.training.parallel import MappingKind, Replicas, mean_over_devices
from warp_translate.types import Array, PyTree

_KIND = flags.DEFINE_enum("kind", "cycle", ["paired", "cycle"], "Training whose state is used.")
_STEPS = flags.DEFINE_integer("steps", 50, "Steps of a round.")
_DEVICES = flags.DEFINE_integer("devices", 2, "Virtual CPU devices of each process.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "Internal: address of process 0.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Internal: number of this process.")

_MAPPINGS: tuple[MappingKind, ...] = ("pmap", "shard_map")


def benchmark(repeats: int) -> measure.Table:
    """Times both mappings in one process, then in two."""
    # jax reads the flags when it starts its first device.
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={_DEVICES.value}"
    if "JAX_PLATFORMS" not in os.environ:
        jax.config.update("jax_platforms", "cpu")
    if _COORDINATOR.value:
        distributed.connect(_COORDINATOR.value, 2, _PROCESS_ID.value)
        return measure.Table(_overhead(2, repeats))
    two = _in_two_processes(repeats)
    return measure.Table([*_overhead(1, repeats), *two])


def _overhead(processes: int, repeats: int) -> list[dict[str, Any]]:
    config = base.get_config(_KIND.value)
    config.data.size = 64
    config.generator.width = config.discriminator.width = 4
    if _KIND.value == "cycle":
        config.method.pool_size = 2
    training = build.training(config)
    first, root = build.initial_state(training, config), build.root_key(config)
    rounds = {mapping: _round(training, mapping, first, root) for mapping in _MAPPINGS}
    found: dict[str, list[tuple[float, ...]]] = {mapping: [] for mapping in _MAPPINGS}
    for number in range(repeats + 1):
        for mapping, run in rounds.items():
            seconds = run()
            if number:  # The first round compiles.
                found[mapping].append(seconds)
    columns = {mapping: list(zip(*times, strict=True)) for mapping, times in found.items()}
    return [
        {
            "processes": processes,
            "mapping": mapping,
            "arrays": len(jax.tree.leaves(first)),
            "call ms": 1000 * statistics.median(call),
            "step ms": 1000 * statistics.median(step),
            "step / pmap": measure.ratio(step, columns["pmap"][1]),
            "check ms": 1000 * statistics.median(check),
        }
        for mapping, (call, step, check) in columns.items()
    ]


def _touch(
    state: PyTree, batch: Mapping[str, Array], root: Array, *, axis_name: str | None
) -> tuple[PyTree, PyTree]:
    """Changes every array and averages one number over the devices, like a step."""
    mean = mean_over_devices(batch["source"].astype(jnp.float32).mean(), axis_name)
    return jax.tree.map(lambda leaf: leaf + mean.astype(leaf.dtype), state), {"mean": mean}


def _round(
    training: Any, mapping: MappingKind, first: PyTree, root: Array
) -> Callable[[], tuple[float, float, float]]:
    """Returns a round; it returns seconds per step (call, done) and of the check of replicas."""
    replicas = Replicas(training.axes, mapping=mapping)
    images = np.zeros((replicas.local_count, 8, 8, 3), np.uint8)
    step, state = replicas.map(_touch), replicas.initial(first)

    def run() -> tuple[float, float, float]:
        nonlocal state
        calls, begin = 0.0, time.perf_counter()
        for _ in range(_STEPS.value):
            placed = replicas.place_batches([{"source": images, "target": images}])
            called = time.perf_counter()
            state, metrics = step(state, placed, root)
            calls += time.perf_counter() - called
        jax.block_until_ready((state, metrics))
        done = time.perf_counter()
        assert not replicas.disagreements(state)
        check = time.perf_counter() - done
        return calls / _STEPS.value, (done - begin) / _STEPS.value, check

    return run


def _in_two_processes(repeats: int) -> list[dict[str, Any]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "experiments.benchmarks.parallel_overhead"]
    command += [f"--coordinator=127.0.0.1:{port}", f"--kind={_KIND.value}"]
    command += [f"--steps={_STEPS.value}", f"--repeats={repeats}", f"--devices={_DEVICES.value}"]
    with tempfile.TemporaryDirectory() as folder:
        children = [
            subprocess.Popen(
                [*command, f"--process_id={number}", f"--output={folder}/{number}"],
                stdout=subprocess.DEVNULL,
            )
            for number in range(2)
        ]
        if any([child.wait() for child in children]):
            raise RuntimeError(f"a process failed: {[child.returncode for child in children]}")
        rows = json.loads(Path(folder, "0").read_text())["rows"]
    return [{**row, "step / pmap": tuple(row["step / pmap"])} for row in rows]


if __name__ == "__main__":
    measure.run(benchmark)
