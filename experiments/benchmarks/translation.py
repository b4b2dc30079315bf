"""Cost of one translation on a CPU, compared with CycleGAN's and pix2pix's generators.

    python -m experiments.benchmarks.translation --threads=2 --output=cost.json

One row for each size, program (see ``translation_programs.py``) and factor. The programs of a size
are timed in interleaved rounds; slow ones take part in fewer (``--seconds``). A goal may name a
peer at another size, which then takes part in the rounds of the goal's size.

Peak memory is measured by ``peak_memory.py``; a program that needs more than ``--memory_gib`` is
left out. GMAC are those of convolutions, with transposed ones counted at their output as in
published figures.
"""

import dataclasses
import gc
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from absl import app, flags

from experiments.benchmarks import measure, peak_memory
from experiments.benchmarks import translation_programs as programs
from experiments.benchmarks.translation_programs import PEERS, Program, Spec

_SIZES = flags.DEFINE_list(
    "sizes", ["256x256", "1024x1024", "1080x1920", "2160x3840"], "Comma-separated HEIGHTxWIDTH."
)
_FACTORS = flags.DEFINE_list("factors", ["1", "2", "4", "8"], "Comma-separated factors.")
_HOW = flags.DEFINE_list("how", ["jax", "onnx", "resnet9", "unet256"], "Comma-separated programs.")
_SECONDS = flags.DEFINE_float("seconds", 60.0, "Upper bound of a program's time at a size.")
_THREADS = flags.DEFINE_integer("threads", 2, "Cores and threads of all programs.", lower_bound=1)
_MOST_GMAC = flags.DEFINE_float("most_gmac", 4000.0, "Programs with more are left out.")
_MEMORY_GIB = flags.DEFINE_float("memory_gib", 16.0, "Programs that need more are left out.")
_MEMORY = flags.DEFINE_bool("memory", True, "Measure memory, half of the time.")
_UINT8 = flags.DEFINE_bool("uint8", False, "jax takes and returns uint8.")
_TINY = flags.DEFINE_bool("tiny", False, "Tiny networks, to test this program.")

_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class _Goal:
    """Upper bound of a translation's time as a share of a peer's."""

    size: str
    factor: int
    peer: str
    peer_size: str
    most: float


_GOALS = (
    _Goal("256x256", 4, "resnet9", "256x256", 0.035),
    _Goal("1024x1024", 4, "unet256", "1024x1024", 0.10),
    _Goal("2160x3840", 8, "unet256", "1024x1024", 0.45),
)
_MEMORY_GOAL = ("2160x3840 factor 8", 1e9 / _MIB)


def benchmark(repeats: int) -> measure.Table:
    """Measures memory, then times the programs size by size."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < _THREADS.value:
        raise app.UsageError(
            f"--threads={_THREADS.value}, but this process may use {len(allowed)} cores only"
        )
    # Before jax starts as many threads as it may use cores; subprocesses inherit it.
    os.sched_setaffinity(0, allowed[: _THREADS.value])
    specs = {size: list(_specs(size)) for size in _SIZES.value}
    memory = _memory([spec for each in specs.values() for spec in each]) if _MEMORY.value else {}
    rows: list[dict[str, Any]] = []
    seconds: dict[str, list[float]] = {}
    for size, listed in specs.items():
        fitting = [spec for spec in listed if memory.get(spec, 0) is not None]
        timed = _time(size, [*fitting, *_peers_of_goals(size)], repeats)
        seconds |= {f"{size}: {spec}": times for spec, times in timed.items()}
        rows += [_row(size, spec, timed, memory.get(spec)) for spec in fitting]
    if not rows:
        raise app.UsageError("these flags leave no program to measure")
    left_out = [str(spec) for spec, found in memory.items() if found is None]
    goals = list(_goals(seconds, {str(spec): found for spec, found in memory.items()}))
    return measure.Table(rows, ["torch", "onnxruntime"], {"left_out": left_out}, goals)


def _spec(size: str, program: Any, factor: int | None = None) -> Spec:
    height, width = map(int, size.split("x"))
    return Spec(
        program=program,
        height=height,
        width=width,
        factor=factor,
        threads=_THREADS.value,
        uint8=_UINT8.value and program == "jax",
        tiny=_TINY.value,
    )


def _specs(size: str) -> Iterator[Spec]:
    for program in _HOW.value:
        for factor in [None] if program in PEERS else map(int, _FACTORS.value):
            spec = _spec(size, program, factor)
            gmac = programs.operations(spec) / 1e9
            if gmac <= _MOST_GMAC.value:
                yield spec
            else:
                print(f"left out, {gmac:.0f} GMAC: {spec}", file=sys.stderr)


def _peers_of_goals(size: str) -> Iterator[Spec]:
    """Yields the peers at other sizes with which goals compare this size."""
    for goal in _GOALS:
        wanted = goal.peer in _HOW.value and str(goal.factor) in _FACTORS.value
        if wanted and goal.size == size != goal.peer_size:
            yield _spec(goal.peer_size, goal.peer)


def _memory(specs: Sequence[Spec]) -> dict[Spec, int | None]:
    """Returns the peak in bytes of every program, None if it exceeds ``--memory_gib``."""
    found: dict[Spec, int | None] = {}
    for number, spec in enumerate(specs):
        print(f"memory: {number + 1} of {len(specs)}, {spec}", file=sys.stderr, flush=True)
        found[spec] = peak_memory.growth(
            f"{programs.__name__}:{programs.make.__name__}",
            dataclasses.asdict(spec),
            most_bytes=int(_MEMORY_GIB.value * 2**30),
        )
    return found


def _time(size: str, specs: Sequence[Spec], repeats: int) -> dict[Spec, list[float]]:
    """Returns the seconds of every round."""
    made: dict[Spec, Program] = {}
    for spec in specs:
        print(f"building {spec}", file=sys.stderr, flush=True)
        made[spec] = _fastest_form(spec)
    timed = measure.interleave(made, repeats, most_seconds=_SECONDS.value, title=size)
    made.clear()
    jax.clear_caches()
    gc.collect()
    return timed


def _fastest_form(spec: Spec) -> Program:
    """Returns a program; of a peer in the faster memory format, tried at 256 or 1024 px."""
    if spec.program not in PEERS:
        return programs.make(**dataclasses.asdict(spec))
    side = 256 if spec.height < 512 or _TINY.value else 1024
    forms = [dataclasses.replace(spec, channels_last=form) for form in (False, True)]
    probes = {
        form: programs.make(**dataclasses.asdict(form) | {"height": side, "width": side})
        for form in forms
    }
    times = measure.interleave(probes, 3, most_seconds=10)
    fastest = min(forms, key=lambda form: statistics.median(times[form]))
    return programs.make(**dataclasses.asdict(fastest))


def _row(
    size: str, spec: Spec, seconds: Mapping[Spec, Sequence[float]], growth: int | None
) -> dict[str, Any]:
    shares = {
        f"/ {peer}": measure.ratio(seconds[spec], seconds[_spec(size, peer)])
        if _spec(size, peer) in seconds
        else None
        for peer in PEERS
    }
    return {
        "size": size,
        "program": spec.program,
        "factor": spec.factor,
        "rounds": len(seconds[spec]),
        "ms": 1000 * statistics.median(seconds[spec]),
        **shares,
        "peak MiB": growth / _MIB if growth is not None else None,
        "GMAC": programs.operations(spec) / 1e9,
    }


def _goals(
    seconds: Mapping[str, Sequence[float]], memory: Mapping[str, int | None]
) -> Iterator[str]:
    ours = [program for program in _HOW.value if program not in PEERS] or ["jax"]
    for goal in _GOALS:
        for program in ours:
            name = f"{program} {goal.size} factor {goal.factor}"
            peer = f"{goal.peer} {goal.peer_size}"
            times = [seconds.get(f"{goal.size}: {each}") for each in (name, peer)]
            found = measure.ratio(times[0], times[1])[0] if times[0] and times[1] else None
            yield measure.goal(f"{name} / {peer}, {_THREADS.value} cores", found, goal.most)
    size, most = _MEMORY_GOAL
    for program in ours:
        growth = memory.get(f"{program} {size}")
        found = growth / _MIB if growth is not None else None
        yield measure.goal(f"{program} {size}, peak memory in MiB", found, most)


if __name__ == "__main__":
    measure.run(benchmark)
