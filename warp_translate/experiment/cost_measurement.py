"""Counts, compiles and times a generator at sizes and factors, for ``warp-translate cost``."""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from warp_translate.errors import UserError
from warp_translate.evaluation import cost
from warp_translate.evaluation.cost_report import Case, Latency, Report
from warp_translate.models import Generator
from warp_translate.serving import bundle as bundles
from warp_translate.serving import engine
from warp_translate.serving.device import find_device
from warp_translate.types import PyTree

Size = tuple[int, int]
"""Height and width in pixels."""

_SECONDS_BETWEEN_LINES = 10.0
_GIB = 2**30
# Cost of reading, warping and writing a pixel, in multiplications.
_MACS_OF_A_PIXEL = 1800
_RUNTIMES: dict[type[engine.Engine], str] = {
    engine.OnnxEngine: "ONNX Runtime",
    engine.JaxEngine: "the bundle's program in jax",
}


@dataclasses.dataclass(frozen=True)
class Subject:
    """A generator to measure.

    Attributes:
      name: its name in the report.
      generator: the module.
      options: arguments of ``models.translate`` beside factor and bands.
      factors: the default factors.
      engine: the engine to time; None for the program that jax compiles here.
    """

    name: str
    generator: Generator
    options: Mapping[str, Any]
    factors: tuple[int, ...]
    engine: engine.Engine | None

    def program(self, factor: int, *, in_bands: bool) -> Callable[..., Any]:
        """Maps parameters and uint8 images to uint8 images."""
        return cost.translation(self.generator, factor, in_bands=in_bands, **self.options)


def measure(
    subject: Subject, sizes: Sequence[Size], factors: Sequence[int], repeats: int
) -> Iterator[Report]:
    """Counts operations, then compiles and times, size by size.

    Args:
      subject: the generator.
      sizes: image sizes.
      factors: factors.
      repeats: timed translations of each size and factor; 0 for none.

    Yields:
      The report so far, after every size.

    Raises:
      UserError: the generator does not take a size, or the bundle does not fit it.
    """
    abstract = _abstract_parameters(subject)
    print(f"counting the work of {len(sizes) * len(factors)} programs", file=sys.stderr)
    cases = {
        size: [_count(subject, abstract, size, factor) for factor in factors] for size in sizes
    }
    progress = _Progress([case for counted in cases.values() for case in counted], repeats)
    params: PyTree = None  # Needed to run only.
    if repeats and subject.engine is None:
        params = cost.draw_parameters(subject.generator)
    done: list[Case] = []
    for counted in cases.values():
        done += _of_size(subject, abstract, params, counted, repeats, progress)
        yield _report(subject, abstract, done, repeats)


def _of_size(
    subject: Subject,
    abstract: PyTree,
    params: PyTree,
    counted: Sequence[Case],
    repeats: int,
    progress: "_Progress",
) -> list[Case]:
    """Compiles and times the cases of one size."""
    size = (counted[0].height, counted[0].width)
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    cases: dict[int, Case] = {}
    runs: dict[int, Callable[[], Any]] = {}
    for case in counted:
        progress.compiling(case)
        begin = time.perf_counter()
        lowered = jax.jit(subject.program(case.factor, in_bands=True)).lower(
            abstract, jax.ShapeDtypeStruct(image.shape, image.dtype)
        )
        compiled = lowered.compile()
        needs = cost.compiled_needs(compiled)
        progress.compiled(case, time.perf_counter() - begin)
        reason = _too_much(needs.peak_bytes) if repeats else ""
        cases[case.factor] = dataclasses.replace(case, needs=needs, reason=reason)
        if reason:
            progress.skipped(case, repeats + 1)
        if repeats and not reason:
            runs[case.factor] = (
                functools.partial(subject.engine.translate, image, case.factor)
                if subject.engine
                else functools.partial(_translate, compiled, params, image)
            )
    for factor, seconds in _take_turns(runs, cases, repeats, progress).items():
        cases[factor] = dataclasses.replace(
            cases[factor],
            latency=Latency.of(seconds) if seconds else None,
            reason="" if seconds else "out of memory",
        )
    return list(cases.values())


def _translate(compiled: Any, params: PyTree, image: np.ndarray) -> np.ndarray:
    return np.asarray(compiled(params, image))


def _take_turns(
    runs: Mapping[int, Callable[[], Any]],
    cases: Mapping[int, Case],
    repeats: int,
    progress: "_Progress",
) -> dict[int, list[float]]:
    """Times functions in turns, so that changes of the machine's speed affect all of them.

    Returns:
      Seconds by factor; none for those that ran out of memory.
    """
    seconds: dict[int, list[float]] = {factor: [] for factor in runs}
    failed = set()
    for turn in range(repeats + 1):
        for factor, run in runs.items():
            if factor in failed:
                continue
            begin = time.perf_counter()
            try:
                run()
            except (MemoryError, jax.errors.JaxRuntimeError) as error:
                if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                failed.add(factor)
                seconds[factor] = []
                progress.skipped(cases[factor], repeats + 1 - turn)
                continue
            took = time.perf_counter() - begin
            progress.ran(cases[factor], turn, took)
            if turn:  # The first run warms up, and engines compile in it.
                seconds[factor].append(took)
    return seconds


class _Progress:
    """Progress on stderr, with the remaining time from the mean speeds of compiling and running."""

    def __init__(self, cases: Sequence[Case], repeats: int) -> None:
        self._cases, self._repeats = len(cases), repeats
        self._work_left = (repeats + 1 if repeats else 0) * sum(map(_work, cases))
        self._compiled, self._compile_seconds = 0, 0.0
        self._work, self._run_seconds = 0.0, 0.0
        self._printed = -float("inf")

    def compiling(self, case: Case) -> None:
        self._say(f"{case.size}, factor {case.factor}: compiling")

    def compiled(self, case: Case, seconds: float) -> None:
        self._compiled += 1
        self._compile_seconds += seconds
        self._say(f"{case.size}, factor {case.factor}: compiled in {seconds:.1f} s")

    def ran(self, case: Case, turn: int, seconds: float) -> None:
        self._work_left -= _work(case)
        self._work += _work(case)
        self._run_seconds += seconds
        if turn and time.monotonic() - self._printed >= _SECONDS_BETWEEN_LINES:
            took = f"{1000 * seconds:.0f} ms, run {turn} of {self._repeats}"
            self._say(f"{case.size}, factor {case.factor}: {took}")

    def skipped(self, case: Case, runs: int) -> None:
        self._work_left -= runs * _work(case)

    def _say(self, line: str) -> None:
        self._printed = time.monotonic()
        parts = [f"{self._compiled}/{self._cases}", line]
        if self._compiled and (self._work or not self._work_left):
            left = (self._cases - self._compiled) * self._compile_seconds / self._compiled
            left += self._work_left * self._run_seconds / self._work if self._work else 0.0
            parts.append(f"{left:.0f} s left")
        print("  ".join(parts), file=sys.stderr, flush=True)


def _work(case: Case) -> float:
    """The work of a translation in multiplications."""
    return case.total_macs + _MACS_OF_A_PIXEL * case.pixels


def _abstract_parameters(subject: Subject) -> PyTree:
    """Shapes and dtypes of the parameters.

    Raises:
      UserError: the bundle's parameters do not fit the generator.
    """
    abstract = cost.abstract_parameters(subject.generator)
    if subject.engine is not None:
        opened = subject.engine.bundle
        flat = traverse_util.flatten_dict(abstract, sep="/")
        expected = {path: leaf.shape for path, leaf in flat.items()}
        held = {name: each.shape for name, each in engine.load_parameters(opened).items()}
        if held != expected:
            raise UserError(
                f"{opened.path(bundles.PARAMETERS)} does not fit the generator of this version of "
                "warp_translate: export the bundle again"
            )
    return abstract


def _count(subject: Subject, abstract: PyTree, size: Size, factor: int) -> Case:
    try:
        macs, open_loops = cost.macs_by_part(
            subject.program(factor, in_bands=False),
            abstract,
            jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8),
        )
    except ValueError as error:
        raise UserError(
            f"--sizes={size[0]}x{size[1]} with factor {factor} cannot be translated: {error}"
        ) from error
    return Case(*size, factor, macs=macs, open_loops=open_loops)


def _report(subject: Subject, abstract: PyTree, cases: Sequence[Case], repeats: int) -> Report:
    generator, ready, found = subject.generator, subject.engine, find_device()
    fields = {
        field.name: getattr(generator, field.name)
        for field in dataclasses.fields(generator)
        if field.name not in ("parent", "name")  # Flax's own.
    }
    for name in ("dtype", "param_dtype"):
        fields[name] = str(jnp.dtype(fields[name]))
    packages = ["jax", "jaxlib", "flax", *["onnxruntime"] * isinstance(ready, engine.OnnxEngine)]
    return Report(
        subject=subject.name,
        generator=fields,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(abstract)),
        about={
            "cpu": found.cpu,
            "cores": found.cores,
            "backend": jax.default_backend(),
            "device": jax.devices()[0].device_kind,
            "versions": {name: metadata.version(name) for name in packages},
        },
        timed=(
            f"median and quartiles of {repeats} translations of one image after one more, from "
            "uint8 in the host's memory to uint8 there, the factors in turns; by "
            f"{_RUNTIMES[type(ready)] if ready else 'jax'}, on {found.cpu}, {found.cores} "
            f"core{'s' * (found.cores > 1)}, {jax.devices()[0].device_kind}"
            if repeats
            else ""
        ),
        cases=tuple(cases),
    )


def _too_much(needed: int) -> str:
    """The reason not to run a program that would exhaust the memory; "" if it fits."""
    free = _free_bytes()
    if jax.default_backend() != "cpu" or free is None or needed <= free:
        return ""
    return f"it needs {needed / _GIB:.1f} GiB of memory and {free / _GIB:.1f} are free"


def _free_bytes() -> int | None:
    """Free memory of the machine and its container; None if unknown."""
    found = []
    try:
        words = Path("/proc/meminfo").read_text().split()
        found.append(1024 * int(words[words.index("MemAvailable:") + 1]))
    except (OSError, ValueError):
        pass
    try:
        group = Path("/sys/fs/cgroup")
        most, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        found.append(int(most) - int(used))
    except (OSError, ValueError):  # Without a limit it says "max".
        pass
    return min(found, default=None)
