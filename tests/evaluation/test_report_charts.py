import base64
import dataclasses
import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tests.evaluation.fake_runs import config, fusion_sweep, write_run, write_sweep
from warp_translate.evaluation import comparison, report_charts, report_render, runs


def grouped(*folders):
    return comparison.groups(runs.read(folders))


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    return grouped(fusion_sweep(tmp_path_factory.mktemp("fusion") / "fusion"))


def drawn(panel):
    axes = Figure().subplots()
    panel.draw(axes)
    return axes


def test_curves_are_means_over_seeds_with_bands(groups):
    charts = report_charts.score_curves(groups, ["output/psnr_gain", "output/ssim", "unknown"])
    assert [panel.title for panel in charts.panels] == ["PSNR gain, dB ↑", "SSIM ↑"]
    assert [label for label, _ in charts.legend] == [group.label for group in groups]
    axes = drawn(charts.panels[0])
    assert len(axes.lines) == len(axes.collections) == len(groups)
    line = axes.lines[0]
    assert list(line.get_xdata()) == [500, 1000, 1500, 2000, 2500]
    values = [run.history["test/output/psnr_gain"][1500] for run in groups[0].runs]
    assert line.get_ydata()[2] == pytest.approx(np.mean(values))
    assert line.get_color() == charts.legend[0][1].color
    band = axes.collections[0].get_paths()[0].vertices
    heights = band[band[:, 0] == 1500][:, 1]
    assert np.ptp(heights) == pytest.approx(2 * np.std(values, ddof=1))
    assert groups[3].label in charts.panels[0].alt


def test_curve_of_one_seed_has_no_band_and_skips_nan(tmp_path):
    folder = write_run(tmp_path / "one")
    lines = [f'{{"step": {n}, "scalars": {{"test/a": {v}}}}}' for n, v in ((1, 2), (2, '"NaN"'))]
    (folder / "metrics.jsonl").write_text(
        "\n".join([*lines, '{"step": 3, "scalars": {"test/a": 5}}', ""])
    )
    charts = report_charts.score_curves(grouped(folder), ["a"])
    axes = drawn(charts.panels[0])
    assert list(axes.lines[0].get_xdata()) == [1, 3] and not axes.collections
    assert "deviation" not in charts.caption


def test_runs_without_configuration_have_no_curve(tmp_path):
    """As if they had been killed before they wrote it."""
    folder = fusion_sweep(tmp_path / "fusion")
    complete = len(grouped(folder))
    for path in sorted(folder.glob("*/config.json"))[:2]:
        path.unlink()
    groups = grouped(folder)
    assert sum(not group.config for group in groups) == 1 and len(groups) == complete
    for charts in (
        report_charts.score_curves(groups, ["output/ssim"]),
        report_charts.training_curves(groups),
    ):
        assert all(len(drawn(panel).lines) == complete - 1 for panel in charts.panels)


def test_long_training_curves_are_averaged(tmp_path):
    folder = write_run(tmp_path / "one")
    lines = [f'{{"step": {n}, "scalars": {{"generator/loss": {n % 2}}}}}\n' for n in range(1000)]
    (folder / "metrics.jsonl").write_text("".join(lines))
    (panel,) = report_charts.training_curves(grouped(folder)).panels
    line = drawn(panel).lines[0]
    assert len(line.get_xdata()) == 50 and set(line.get_ydata()) == {0.5}


def test_no_data_gives_no_charts(tmp_path):
    groups = grouped(write_run(tmp_path / "one", steps=0, priced=False))
    assert report_charts.score_curves(groups, ["output/l1"]) is None
    assert report_charts.training_curves(groups) is None
    assert report_charts.cost_charts(groups, ["output/l1"]) is None


def test_cost_chart_has_a_line_per_fusion_through_its_factors(groups):
    charts = report_charts.cost_charts(groups, ["output/l1_ratio", "mask/mean"])
    (panel,) = charts.panels  # The mask's mean is only descriptive.
    assert [label for label, _ in charts.legend] == [
        *("full", "pretranslated only", "warped only", "mask without warp")
    ]
    axes = drawn(panel)
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.texts] == ["1", "2", "4"] * 4
    line = axes.lines[0]
    assert list(line.get_xdata()) == [group.cost.macs / 1e9 for group in groups[:3]]
    assert list(line.get_ydata()) == [
        group.statistic("output/l1_ratio").mean for group in groups[:3]
    ]


def test_styles_encode_lines_by_color_and_factors_by_dash_and_shade(groups):
    styles = [report_charts.styles(groups)[group.key] for group in groups]
    assert len({style.color for style in styles}) == len(groups)
    assert [style.dash for style in styles[:3]] == [style.dash for style in styles[3:6]]
    assert len({style.dash for style in styles[:3]}) == 3 and styles[0].dash == ()
    assert styles[0].marker == styles[2].marker != styles[3].marker


def test_line_without_a_common_label_is_named_after_its_first_group(tmp_path):
    for factor in (1, 2):
        write_run(tmp_path / f"r{factor}", config(method__factor=factor))
    write_sweep(tmp_path, {"alpha": ["r1"], "beta": ["r2"]})
    ((label, _, members),) = report_charts.lines(grouped(tmp_path))
    assert label == "alpha" and len(members) == 2


def test_charts_are_reproducible_svg_with_the_size_that_the_page_states(groups):
    charts = report_charts.score_curves(groups, ["output/ssim"])
    content = report_charts.render(charts.panels)
    assert content == report_charts.render(charts.panels)
    root = ElementTree.fromstring(content)
    assert [
        round(float(side.removesuffix("pt"))) for side in (root.get("width"), root.get("height"))
    ] == [281, 191]
    address = report_render._svg_address(charts.panels[0])
    assert base64.b64decode(address.removeprefix("data:image/svg+xml;base64,")) == content


def test_png_holds_all_panels_and_the_legend_and_takes_dollars_literally(groups):
    charts = report_charts.score_curves(
        groups, ["output/ssim", "output/l1", "output/psnr", "mask/mean"]
    )
    panels = [dataclasses.replace(charts.panels[0], title="$\\broken{$"), *charts.panels[1:]]
    legend = [(f"{label} $\\nonsense$", style) for label, style in charts.legend]
    with Image.open(io.BytesIO(report_charts.render(panels, legend, "png"))) as image:
        assert image.width == pytest.approx(3 * 3.9 * 150, abs=2)
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for _, style in charts.legend:
        color = [int(style.color[at : at + 2], 16) for at in (1, 3, 5)]
        assert (np.abs(pixels.astype(int) - color).max(1) < 8).any(), style
