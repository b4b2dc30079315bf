"""The cost of a generator as a table and as JSON."""

import dataclasses
import json
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from warp_translate.evaluation.cost import CONVENTION, PARTS, Needs
from warp_translate.evaluation.macs import Macs

_COLUMNS = 100


@dataclasses.dataclass(frozen=True)
class Latency:
    """Median and quartiles of the time of a translation in milliseconds, and number of repeats."""

    median: float
    low: float
    high: float
    repeats: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Latency":
        """The latency of at least one measurement."""
        times = [1000 * each for each in seconds]
        low, high = times[0], times[0]
        if len(times) > 1:
            low, _, high = statistics.quantiles(times, n=4, method="inclusive")
        return cls(statistics.median(times), low, high, len(times))


@dataclasses.dataclass(frozen=True)
class Case:
    """The cost at one size and factor.

    Attributes:
      height: image height in pixels.
      width: image width in pixels.
      factor: reduction of the trunk's image.
      macs: multiplications by part, for one image.
      open_loops: loops of unknown length, counted as if they ran once.
      needs: requirements of the compiled program; None until it is compiled.
      latency: None if not measured.
      reason: why it was not measured; "" if not requested.
    """

    height: int
    width: int
    factor: int
    macs: Mapping[str, Macs]
    open_loops: int = 0
    needs: Needs | None = None
    latency: Latency | None = None
    reason: str = ""

    @property
    def size(self) -> str:
        """Height and width for display."""
        return f"{self.height} x {self.width}"

    @property
    def pixels(self) -> int:
        """Pixels of the image without padding."""
        return self.height * self.width

    @property
    def total_macs(self) -> int:
        """Multiplications of all parts."""
        return sum(each.total for each in self.macs.values())

    def to_json(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        return {
            "height": self.height,
            "width": self.width,
            "factor": self.factor,
            "macs": self.total_macs,
            "macs_per_pixel": self.total_macs / self.pixels,
            "macs_by_part": {name: dataclasses.asdict(each) for name, each in self.macs.items()},
            "open_loops": self.open_loops,
            **(dataclasses.asdict(self.needs) if self.needs else {}),
            "latency_ms": dataclasses.asdict(self.latency) if self.latency else None,
            **({"latency_missing": self.reason} if self.reason else {}),
        }


@dataclasses.dataclass(frozen=True)
class Report:
    """The cost of one generator at all sizes and factors.

    Attributes:
      subject: display name of the generator.
      generator: its fields, ready for JSON.
      parameters: number of trainable parameters.
      about: machine and versions, ready for JSON.
      timed: definition of the latency; "" if not requested.
      cases: by size and then by factor.
    """

    subject: str
    generator: Mapping[str, Any]
    parameters: int
    about: Mapping[str, Any]
    timed: str
    cases: Sequence[Case]

    @property
    def conventions(self) -> dict[str, str]:
        """Definitions of the figures."""
        return {
            "MACs": CONVENTION,
            "parts": "MACs per pixel of the original, including the work on its padding: "
            + "; ".join(f"{name}, {meaning}" for name, meaning in PARTS.items()),
            "accessed": "bytes that the operations of the compiled jax program read and write, as "
            "XLA counts them for this machine",
            "peak": "arguments, results and temporaries of that program, minus shared buffers; "
            "excludes the runtime and the program itself",
            **({"latency": self.timed} if self.timed else {}),
        }


def table(report: Report) -> str:
    """The report for a terminal."""
    rows = [_row(case, bool(report.timed)) for case in report.cases]
    columns = [[name, *(row[name] for row in rows)] for name in rows[0]]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        for cells in zip(*columns, strict=True)
    ]
    remarks = [
        f"{case.size}, factor {case.factor}: not timed, {case.reason}"
        for case in report.cases
        if case.reason
    ]
    if loops := max(case.open_loops for case in report.cases):
        remarks.append(f"{loops} loops of unknown length count as if they ran once")
    conventions = [
        textwrap.fill(f"{name}: {meaning}", _COLUMNS, subsequent_indent="  ")
        for name, meaning in report.conventions.items()
    ]
    title = f"{report.subject}: {report.parameters:,} parameters"
    return "\n".join([title, "", *lines, *remarks, "", *conventions])


def _row(case: Case, timed: bool) -> dict[str, str]:
    row = {
        "size": case.size,
        "factor": str(case.factor),
        "GMAC": _digits(case.total_macs / 1e9),
        "MAC/pixel": _digits(case.total_macs / case.pixels),
        **{name: _digits(each.total / case.pixels) for name, each in case.macs.items()},
        "accessed GB": _digits(case.needs.bytes_accessed / 1e9) if case.needs else "-",
        "peak MiB": _digits(case.needs.peak_bytes / 2**20) if case.needs else "-",
    }
    if timed:
        found = case.latency
        row["ms"] = _digits(found.median) if found else "-"
        row["quartiles"] = f"{_digits(found.low)}..{_digits(found.high)}" if found else "-"
    return row


def _digits(value: float) -> str:
    """Three significant digits, or all those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def to_json(report: Report) -> str:
    """The report as JSON."""
    names = ("subject", "generator", "parameters", "conventions", "about")
    fields = {name: getattr(report, name) for name in names}
    fields["cases"] = [case.to_json() for case in report.cases]
    return json.dumps(fields, indent=2) + "\n"
