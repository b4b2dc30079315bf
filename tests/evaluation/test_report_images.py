import base64
import io

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.fake_runs import COLUMNS, config, tiny_sheet, write_run
from warp_translate.errors import UserError
from warp_translate.evaluation import comparison, evaluator, report_images, runs
from warp_translate.evaluation.sheet import render_sheet


def opened(content):
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def grouped(folder, sheet=tiny_sheet, **changes):
    folders = [
        write_run(folder / f"r{factor}", config(seed=factor, method__factor=factor), sheet=sheet)
        for factor in (1, 2)
    ]
    return comparison.groups(runs.read(folders))


def test_column_indices_match_those_of_sheets():
    assert evaluator.COLUMNS == COLUMNS
    assert evaluator.COLUMNS[report_images.ORIGINAL] == "original"
    assert evaluator.COLUMNS[report_images.OUTPUT] == "output"


def test_cells_are_found_by_their_grid(rng):
    rows = [list(rng.integers(0, 226, (5, 12, 12, 3), dtype=np.uint8)) for _ in range(3)]
    sheet = render_sheet(
        rows,
        ["a", "b", "c", "d", "a very long title"],
        cell=12,
        title="a title that is much longer than the table is wide, and then a little more",
        footer="a footer",
        wheel_magnitude=3.0,
    )
    found = report_images.cells(sheet)
    assert [len(row) for row in found] == [5, 5, 5]
    for row, cells in zip(rows, found, strict=True):
        for image, cell in zip(row, cells, strict=True):
            left = (cell.shape[1] - 12) // 2
            np.testing.assert_array_equal(cell[:12, left : left + 12], image)


def test_image_without_a_grid_has_no_cells(rng):
    assert report_images.cells(rng.integers(0, 200, (40, 30, 3), dtype=np.uint8)) == []
    assert report_images.cells(np.full((40, 30, 3), 255, np.uint8)) == []


def test_strips_show_the_same_examples_for_every_variant(tmp_path):
    groups = grouped(tmp_path)
    (strips,) = report_images.strips(groups)
    assert [image.title for image in strips.images] == ["original", "factor 1", "factor 2", "truth"]
    shapes = {opened(image.png).shape for image in strips.images}
    assert len(shapes) == 1
    sheet = opened(groups[1].runs[0].sheets[0].read_bytes())
    output = report_images.cells(sheet)[1][report_images.OUTPUT]
    strip = opened(strips.images[2].png)
    width = (strip.shape[1] + 2) // 3 - 2
    assert width < output.shape[1], "the margin was not cropped"
    left = (output.shape[1] - width) // 2
    np.testing.assert_array_equal(
        strip[:, width + 2 : 2 * width + 2], output[:, left : left + width]
    )
    assert len({image.name for image in strips.images}) == 4


def test_sheets_of_other_examples_are_not_compared(tmp_path):
    def other(path, seed):
        tiny_sheet(path, seed, rows=2 + seed)

    assert report_images.strips(grouped(tmp_path / "rows", other)) == []

    def own(path, seed):
        shown = np.random.default_rng(seed)
        rows = [list(shown.integers(0, 226, (8, 16, 16, 3), dtype=np.uint8))]
        Image.fromarray(render_sheet(rows, COLUMNS, cell=16)).save(path)

    assert report_images.strips(grouped(tmp_path / "own", own)) == []


def test_sheets_come_from_the_first_evaluated_seed(tmp_path):
    folders = [
        write_run(tmp_path / f"s{seed}", config(seed=seed), evaluated=seed > 0, sheet=tiny_sheet)
        for seed in range(3)
    ]
    (image,) = report_images.sheets(comparison.groups(runs.read(folders)))
    assert image.title == "s0 and 2 more, seed 1" and "seed 1" in image.alt
    assert image.png == (folders[1] / "evaluation" / "sheet.png").read_bytes()


def test_titles_name_the_direction_of_a_sheet(tmp_path):
    folder = write_run(tmp_path / "one")
    for name in ("sheet_a_to_b", "sheet_b_to_a"):
        tiny_sheet(folder / "evaluation" / f"{name}.png", 0)
    images = report_images.sheets(comparison.groups(runs.read([folder])))
    assert [each.title for each in images] == ["one, a to b, seed 0", "one, b to a, seed 0"]


def test_broken_sheet_is_an_error(tmp_path):
    groups = grouped(tmp_path)
    path = groups[0].runs[0].sheets[0]
    path.write_bytes(b"nothing")
    for read in (report_images.sheets, report_images.strips):
        with pytest.raises(UserError, match=r"sheet\.png cannot be read as an image"):
            read(groups)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def decoded(address):
    kind, _, content = address.partition(",")
    assert kind == "data:image/webp;base64"
    return base64.b64decode(content)


def test_small_images_are_embedded_losslessly(rng):
    pixels = rng.integers(0, 256, (30, 50, 3), dtype=np.uint8)
    ((address, width, height),) = report_images.embedded([png(pixels)])
    assert (width, height) == (50, 30)
    np.testing.assert_array_equal(opened(decoded(address)), pixels)


def test_large_images_shrink_to_the_budget(rng):
    noise = [png(rng.integers(0, 256, (400, 900, 3), dtype=np.uint8)) for _ in range(2)]
    found = report_images.embedded(noise, budget=200_000)
    assert sum(len(decoded(address)) for address, _, _ in found) <= 200_000
    assert all(640 <= width < 900 and width > 2 * height for _, width, height in found)
    assert report_images.embedded([]) == []
