"""Skeleton of the benchmarks: interleaved timing, ratios, goals, printed and saved tables."""

import collections
import dataclasses
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from absl import app, flags

Ratio = tuple[float, float, float]
"""Median, lower and upper quartile."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Result of a benchmark.

    Attributes:
      rows: dicts with the same keys; a tuple is a `Ratio`, None an empty cell.
      packages: packages whose versions are recorded besides jax and flax.
      notes: values that hold for the whole table.
      goals: lines from `goal`.
      violations: lines about failures; any makes the exit status 1.
    """

    rows: Sequence[Mapping[str, Any]]
    packages: Sequence[str] = ()
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    goals: Sequence[str] = ()
    violations: Sequence[str] = ()


def run(benchmark: Callable[[int], Table], repeats: int = 15) -> None:
    """Runs a benchmark as a program: parses the flags, prints the table, saves it as JSON.

    Args:
      benchmark: function of the number of timed rounds.
      repeats: default number of timed rounds.
    """
    values = flags.FLAGS
    flags.DEFINE_integer("repeats", repeats, "Timed rounds.")
    flags.DEFINE_string("output", None, "JSON file for the table.")
    for name in ("repeats", "output"):  # Or --help would omit them.
        values.register_key_flag_for_module(sys.argv[0], values[name])

    def main(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments {argv[1:]}; give flags only")
        table = benchmark(values.repeats)
        settings = {
            flag.name: flag.value
            for flag in values.get_key_flags_for_module(argv[0])
            if flag.name != "output" and flag.value is not None
        }
        publish({**machine(*table.packages), **settings, **table.notes}, table, values.output)
        if table.violations:
            sys.exit(1)

    app.run(main)


def machine(*packages: str) -> dict[str, Any]:
    """Returns the machine, its devices, and the versions of jax, flax and ``packages``."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.default_backend()}",
        "cores_allowed": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
        "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", *packages)},
    }


def publish(about: Mapping[str, Any], table: Table, output: str | None) -> None:
    """Prints ``about`` and the table; saves both as JSON if ``output`` is a path."""
    lines = [list(table.rows[0])] if table.rows else []
    lines += [[_text(value) for value in row.values()] for row in table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(json.dumps(about))
    for line in lines:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    for line in (*table.goals, *table.violations):
        print(line)
    if output:
        names = ("rows", "goals", "violations")
        saved = {"about": about, **{name: getattr(table, name) for name in names}}
        Path(output).write_text(json.dumps(saved, indent=2) + "\n")


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return "{:.3f} ({:.3f}..{:.3f})".format(*value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def goal(name: str, found: float | None, bound: float, *, at_least: bool = False) -> str:
    """Returns one line that compares a figure with its goal.

    Args:
      name: meaning of the figure, with its unit.
      found: the figure, or None if it was not measured.
      bound: upper bound, or lower bound with ``at_least``.
      at_least: whether ``bound`` is a lower bound.
    """
    line = f"goal: {name}, {'at least' if at_least else 'at most'} {bound:g}"
    if found is None:
        return f"{line}: not measured"
    met = found >= bound if at_least else found <= bound
    return f"{line}: {found:.4g}, {'met' if met else 'not met'}"


def interleave(
    functions: Mapping[Any, Callable[[], Any]],
    repeats: int,
    *,
    round_seconds: float = 0.0,
    most_seconds: float | None = None,
    title: str | None = None,
) -> dict[Any, list[float]]:
    """Times functions in rounds, one after the other, so that a change of clock rate hits them all.

    Args:
      functions: functions by key. jax results are waited for; with a GPU, so is PyTorch.
      repeats: number of timed rounds. One more round before them compiles.
      round_seconds: a function is called several times per round to take this long; on a GPU there
        is one wait after these calls.
      most_seconds: a function that would take longer in total takes part in fewer rounds, the first
        ones, at least one.
      title: prefix of the progress lines on stderr; None prints none.

    Returns:
      Seconds of one call, per round, by key.
    """
    timed: dict[Any, list[float]] = {key: [] for key in functions}
    calls, rounds = dict.fromkeys(functions, 1), dict.fromkeys(functions, repeats)
    for number in range(repeats + 1):
        for key, function in functions.items():
            if number > rounds[key]:
                continue
            begin = time.perf_counter()
            _call(function, calls[key])
            seconds = time.perf_counter() - begin
            if number:
                timed[key].append(seconds / calls[key])
                continue
            if most_seconds is not None:
                rounds[key] = max(1, min(repeats, int(most_seconds / seconds)))
            if round_seconds:
                begin = time.perf_counter()
                _call(function, 3)
                once = (time.perf_counter() - begin) / 3
                calls[key] = min(max(round(round_seconds / once), 1), 1000)
        if title:
            print(f"{title}: round {number} of {repeats}", file=sys.stderr, flush=True)
    return timed


def _call(function: Callable[[], Any], calls: int) -> None:
    # On a CPU, queued programs would share the cores, so each call is waited for.
    queue = jax.default_backend() != "cpu"
    for number in range(calls):
        result = function()
        if not queue or number == calls - 1:
            jax.block_until_ready(result)
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
        sys.modules["torch"].cuda.synchronize()


def ratio(times: Sequence[float], base: Sequence[float]) -> Ratio:
    """Returns median and quartiles of the ratios ``times / base`` over the rounds of both."""
    ratios = [a / b for a, b in zip(times, base, strict=False)]
    if len(ratios) == 1:
        return ratios[0], ratios[0], ratios[0]
    low, _, high = statistics.quantiles(ratios, n=4)
    return statistics.median(ratios), low, high


def own_milliseconds(events: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Adds the times of compiled operations in a trace of JAX's profiler.

    Args:
      events: the trace's events, times in microseconds; those that are no operations are skipped.

    Returns:
      Milliseconds by operation, without those of the operations inside, as of a loop.
    """
    found: collections.Counter[str] = collections.Counter()
    running: dict[tuple[int, int], list[tuple[float, str]]] = {}  # Ends and names by thread.
    operations = [
        each for each in events if each.get("ph") == "X" and "hlo_op" in each.get("args", {})
    ]
    for event in sorted(operations, key=lambda each: (each["ts"], -each["dur"])):
        outer = running.setdefault((event["pid"], event["tid"]), [])
        while outer and outer[-1][0] <= event["ts"]:
            outer.pop()
        duration, name = event["dur"] / 1e3, event["args"]["hlo_op"]
        if outer:
            found[outer[-1][1]] -= duration
        found[name] += duration
        outer.append((event["ts"] + event["dur"], name))
    return dict(found)


def share_gpu() -> bool:
    """Lets jax and PyTorch share a GPU; returns whether both see one. Call before jax starts."""
    import torch

    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # Or jax takes 3/4 of it.
    on_gpu = torch.cuda.is_available() and jax.default_backend() == "gpu"
    if not on_gpu:
        print(
            f"PyTorch {'sees' if torch.cuda.is_available() else 'sees no'} CUDA device and jax "
            f"runs on {jax.default_backend()}; both need an NVIDIA GPU (--any_device measures here)"
        )
    return on_gpu


def torch_device() -> str:
    """Returns the name of PyTorch's device."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
