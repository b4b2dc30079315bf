import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from warp_translate.evaluation import cost_chart, cost_report
from warp_translate.evaluation.cost import PARTS, Needs
from warp_translate.evaluation.cost_report import Case, Latency, Report
from warp_translate.evaluation.macs import Macs


def case(height, width, factor, **fields):
    macs = dict.fromkeys(PARTS, Macs())
    macs |= {
        "trunk": Macs(products=1000 * height * width // factor**2),
        "heads": Macs(840 * height * width, 8 * height * width),
    }
    needs = Needs(bytes_accessed=3 * 10**9 * height, peak_bytes=2**20 * width)
    milliseconds = height * width / factor
    latency = Latency(milliseconds, 0.5 * milliseconds, 2 * milliseconds, 5)
    return Case(height, width, factor, macs, needs=needs, latency=latency, **fields)


@pytest.fixture
def report():
    cases = [
        case(height, width, factor)
        for height, width in ((256, 256), (1080, 1920))
        for factor in (1, 4)
    ]
    return Report("a generator", {"width": 8}, 12345, {"cpu": "a"}, "the median of five", cases)


def test_latency_is_median_and_quartiles_in_milliseconds():
    assert Latency.of([0.004, 0.001, 0.002, 0.005, 0.003]) == Latency(3, 2, 4, 5)
    assert Latency.of([0.007]) == Latency(7, 7, 7, 1)


def test_table_has_a_line_per_case_and_definitions(report):
    lines = cost_report.table(report).splitlines()
    assert lines[0] == "a generator: 12,345 parameters"
    header, first, second, *_ = lines[2:]
    assert header.split() == [
        *("size", "factor", "GMAC", "MAC/pixel", *PARTS),
        *("accessed", "GB", "peak", "MiB", "ms", "quartiles"),
    ]
    assert first.split() == [
        *("256", "x", "256", "1", "0.121", "1,848", "0", "1,000", "0", "848", "0", "0", "0"),
        *("768", "256", "65,536", "32,768..131,072"),
    ]
    assert second.split()[3:6] == ["4", "0.0597", "910"]
    assert len({len(line) for line in lines[2:7]}) == 1, "the columns are not aligned"
    words = " ".join("\n".join(lines[7:]).split())
    for part in ("MACs: multiplications, counted", "heads, the maps", "the median of five"):
        assert part in words
    assert max(map(len, lines[7:])) <= 100


def test_table_without_latency_has_no_column_for_it(report):
    cases = [dataclasses.replace(each, latency=None) for each in report.cases]
    table = cost_report.table(dataclasses.replace(report, cases=cases, timed=""))
    assert " ms" not in table and "latency" not in table


def test_table_notes_missing_latency_and_open_loops(report):
    missing = dataclasses.replace(report.cases[-1], latency=None, reason="it is too large")
    cases = [dataclasses.replace(report.cases[0], open_loops=2), missing]
    table = cost_report.table(dataclasses.replace(report, cases=cases))
    assert "1080 x 1920, factor 4: not timed, it is too large" in table
    assert "2 loops of unknown length count as if they ran once" in table
    assert table.splitlines()[4].split()[-2:] == ["-", "-"]


def test_json_holds_every_figure(report):
    found = json.loads(cost_report.to_json(report))
    assert found["parameters"] == 12345 and found["generator"] == {"width": 8}
    assert found["about"] == {"cpu": "a"}
    assert found["conventions"]["latency"] == "the median of five"
    assert [each["factor"] for each in found["cases"]] == [1, 4, 1, 4]
    last = found["cases"][-1]
    pixels = 1080 * 1920
    assert last["macs_by_part"]["heads"] == {"products": 840 * pixels, "elementwise": 8 * pixels}
    assert last["macs"] == 848 * pixels + 1000 * pixels // 16
    assert last["macs_per_pixel"] == last["macs"] / pixels
    assert last["bytes_accessed"] == 3 * 10**9 * 1080 and last["peak_bytes"] == 2**20 * 1920
    assert last["latency_ms"] == {
        **{"median": pixels / 4, "low": pixels / 8, "high": pixels / 2, "repeats": 5}
    }


def test_chart_has_a_line_per_factor_on_logarithmic_axes(report):
    macs, latency = cost_chart.draw_chart(report).axes
    for axes in (macs, latency):
        assert axes.get_xscale() == axes.get_yscale() == "log"
        assert [line.get_label() for line in axes.lines] == ["factor 1", "factor 4"]
        assert [label.get_text() for label in axes.get_xticklabels()] == [
            *("256 x 256", "1080 x 1920")
        ]
        for line in axes.lines:
            assert list(line.get_xdata()) == [256 * 256, 1080 * 1920]
    for place, factor in enumerate((1, 4)):
        cases = [each for each in report.cases if each.factor == factor]
        assert list(macs.lines[place].get_ydata()) == [each.total_macs / 1e9 for each in cases]
        assert list(latency.lines[place].get_ydata()) == [each.latency.median for each in cases]
    assert macs.get_legend() is not None


def test_chart_skips_missing_latency_and_joins_sizes_of_equal_pixels(report):
    cases = [dataclasses.replace(case(128, 512, 1), latency=None), *report.cases]
    macs, latency = cost_chart.draw_chart(dataclasses.replace(report, cases=cases)).axes
    assert macs.get_xticklabels()[0].get_text() == "128 x 512\n256 x 256"
    assert len(macs.lines[0].get_xdata()) == 3 and len(latency.lines[0].get_xdata()) == 2
    untimed = [dataclasses.replace(each, latency=None) for each in cases]
    assert len(cost_chart.draw_chart(dataclasses.replace(report, cases=untimed)).axes) == 1


def test_chart_of_many_sizes_has_few_ticks(report):
    cases = [case(side, side, 1) for side in range(64, 64 + 8 * 30, 8)]
    axes = cost_chart.draw_chart(dataclasses.replace(report, cases=cases)).axes[0]
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert len(labels) <= 9 and labels[0] == "64 x 64" and labels[-1] == "296 x 296"


@pytest.mark.parametrize("suffix", cost_chart.SUFFIXES)
def test_chart_is_written(report, tmp_path, suffix):
    path = tmp_path / f"cost{suffix}"
    cost_chart.write_chart(path, report)
    assert path.stat().st_size > 5000
    if suffix == ".png":
        with Image.open(path) as image:
            assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 50
