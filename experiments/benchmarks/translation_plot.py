"""Plot of latency and peak memory against resolution, from the table of ``translation.py``."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

_STYLES = {
    "resnet9": {"color": "#222222", "linewidth": 2.5, "marker": "D"},
    "unet256": {"color": "#888888", "linewidth": 2.5, "marker": "D"},
    "jax": {"linestyle": "-", "marker": "o"},
    "onnx": {"linestyle": "--", "marker": "s"},
}
_PEERS = {"resnet9": "ResNet-9 (CycleGAN)", "unet256": "U-Net-256 (pix2pix)"}
# From light to dark with the factor, also distinct in grayscale.
_SHADES = ("#f4a259", "#e4572e", "#b0279c", "#5b2a86", "#1b1b6f")

Line = tuple[str, dict[str, Any], list[tuple[float, float]]]


def draw(rows: Sequence[Mapping[str, Any]], path: str, subtitle: str) -> None:
    """Draws one line for each program and factor, on logarithmic axes.

    Args:
      rows: rows of the table.
      path: PNG file.
      subtitle: conditions, the number of cores for instance.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    panels = [("ms", "latency, ms"), ("peak MiB", "peak memory, MiB")]
    panels = [panel for panel in panels if lines(rows, panel[0])]
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(2 + 5 * len(panels), 5.5), layout="constrained", squeeze=False
    )
    sizes = {_pixels(row["size"]) / 1e6: row["size"].replace("x", " x\n") for row in rows}
    for axis, (column, label) in zip(axes[0], panels, strict=True):
        for name, style, points in lines(rows, column):
            axis.loglog(*zip(*points, strict=True), label=name, markersize=5, **style)
        axis.set_xticks(list(sizes), list(sizes.values()))
        axis.set_xticks([], minor=True)
        axis.yaxis.set_minor_formatter(ticker.LogFormatter(minor_thresholds=(2, 0.5)))
        axis.set(xlabel="image, height x width in pixels", ylabel=label)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right center")
    figure.suptitle(f"One translation on a CPU, {subtitle}")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def lines(rows: Sequence[Mapping[str, Any]], column: str) -> list[Line]:
    """Returns label, style and points (megapixels, value) of each program with values."""
    factors = sorted({row["factor"] for row in rows if row["factor"] is not None})
    found: dict[tuple[str, int | None], Line] = {}
    for row in sorted(rows, key=lambda row: _pixels(row["size"])):
        program, factor = row["program"], row["factor"]
        if row[column] is None:
            continue
        if (program, factor) not in found:
            style = dict(_STYLES[program])
            if factor is not None:
                style["color"] = _SHADES[min(factors.index(factor), len(_SHADES) - 1)]
            name = _PEERS.get(program, f"{program}, factor {factor}")
            found[program, factor] = (name, style, [])
        found[program, factor][2].append((_pixels(row["size"]) / 1e6, row[column]))
    return list(found.values())


def _pixels(size: str) -> int:
    return math.prod(map(int, size.split("x")))
