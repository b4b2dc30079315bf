"""What all benchmarks share: taking turns, ratios, and saying what was measured on what."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax


def take_turns(functions: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Times functions in turns, so that a change of the machine's speed meets all alike.

    Args:
      functions: by name; jax arrays among the results are waited for.
      repeats: turns that count; one more goes before, which compiles.

    Returns:
      Seconds of each turn by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(times: Sequence[float], base: Sequence[float]) -> tuple[float, float, float]:
    """Median and quartiles of the ratios of two functions' times in the same turns."""
    ratios = [a / b for a, b in zip(times, base, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return statistics.median(ratios), low, high


def environment(*packages: str, **settings: Any) -> dict[str, Any]:
    """Machine, versions and settings."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.default_backend()}",
        "cores_allowed": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
        "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", *packages)},
        **settings,
    }


def publish(
    about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], output: str | None
) -> None:
    """Prints a table and, if asked, saves it.

    Args:
      about: from `environment`.
      rows: with the same names in each; tuples are median and quartiles.
      output: JSON file, or None.
    """
    print(json.dumps(about))
    cells = [[_text(value) for value in row.values()] for row in rows]
    header = list(rows[0])
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    for line in (header, *cells):
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    if output:
        Path(output).write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n")


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        median, low, high = value
        return f"{median:.3f} ({low:.3f}..{high:.3f})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
