"""Colors of displacements and masks, and layout and file of a sheet."""

import colorsys

import numpy as np
import pytest
from PIL import Image

from warp_translate import visualize
from warp_translate.evaluation import sheet

GAP = (226, 226, 226)
RED, GREEN, BLUE, OTHER = (255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 99, 199)


def _plain(color, height, width):
    return np.full((height, width, 3), color, np.uint8)


def _color_of(vector, maximum):
    field = np.float32(vector).reshape(1, 1, 2)
    return tuple(visualize.displacement_to_color(field, maximum)[0, 0].tolist())


def _box_of(image, color):
    """Top, left, bottom, right (exclusive) of a box filled with a color."""
    found = (image == np.array(color, np.uint8)).all(axis=2)
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    top, left, bottom, right = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
    assert found[top:bottom, left:right].all()
    return int(top), int(left), int(bottom), int(right)


def _size_of(image, color):
    top, left, bottom, right = _box_of(image, color)
    return bottom - top, right - left


def test_zero_displacement_is_white():
    zero = np.zeros((3, 4, 2), np.float32)
    for maximum in (None, 0.0, 5.0):
        color = visualize.displacement_to_color(zero, maximum)
        assert color.shape == (3, 4, 3) and color.dtype == np.uint8
        assert (color == 255).all()


def test_corners_of_the_middlebury_wheel():
    # Steps 0, 15, 21, 25, 36 and 49 of 55, from Baker et al.'s counts 15, 6, 4, 11, 13, 6.
    angles = [2 * np.pi * step / 55 for step in (0, 15, 21, 25, 36, 49)]
    colors = [_color_of((np.cos(angle), np.sin(angle)), 1.0) for angle in angles]
    hues = [colorsys.rgb_to_hsv(*(level / 255 for level in color))[0] for color in colors]
    np.testing.assert_allclose(hues, np.arange(6) / 6, atol=0.004)


def test_directions_have_their_hues():
    assert _color_of((4, 0), 4.0) == RED
    red, green, blue = _color_of((0, 4), 4.0)  # Down is a quarter of the wheel, step 13.75.
    assert (red, blue) == (255, 0) and green == round(255 * 13.75 / 15)
    assert _color_of((1, 0), 1.0) != _color_of((-1, 0), 1.0)
    assert _color_of((0, 1), 1.0) != _color_of((0, -1), 1.0)


def test_wheel_is_continuous():
    angles = np.linspace(0, 2 * np.pi, 2001)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=-1)[None]
    color = visualize.displacement_to_color(circle, 1.0).astype(int)[0]
    assert np.abs(np.diff(color, axis=0)).max() <= 2
    assert tuple(color[0]) == tuple(color[-1]) == RED


def test_saturation_is_the_share_of_the_maximum():
    assert _color_of((1, 0), 4.0) == (255, 191, 191)
    assert _color_of((3, 0), 4.0) == (255, 64, 64)
    # The longest vector is the default maximum.
    field = np.float32([[[3, 4], [1.5, 2], [0, 0]]])
    color = visualize.displacement_to_color(field)
    np.testing.assert_array_equal(color, visualize.displacement_to_color(field, 5.0))
    assert color[0, 0].min() == 0


def test_vectors_beyond_the_maximum_are_dimmed(rng):
    assert _color_of((9, 0), 4.0) == _color_of((9, 0), 0.0) == (191, 0, 0)
    # But not by rounding of the maximum to single precision.
    field = rng.normal(size=(32, 32, 2)).astype(np.float32)
    below = float(np.nextafter(np.float32(np.hypot(*field.reshape(-1, 2).T).max()), 0))
    assert (visualize.displacement_to_color(field, below).max(axis=2) == 255).all()


def test_nonfinite_vectors_are_black_and_ignored_by_the_scale():
    field = np.float32([[[2, 0], [np.nan, 0], [0, np.inf]]])
    color = visualize.displacement_to_color(field)
    assert color.tolist() == [[list(RED), [0, 0, 0], [0, 0, 0]]]


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3), (1, 4, 4, 2)])
def test_invalid_displacement_shapes_are_an_error(shape):
    with pytest.raises(ValueError, match=r"\[H, W, 2\], got \(" + str(shape)[1:-1]):
        visualize.displacement_to_color(np.zeros(shape))


@pytest.mark.parametrize("maximum", [-1.0, float("nan"), float("inf")])
def test_invalid_maxima_are_an_error(maximum):
    with pytest.raises(ValueError, match=f"max_magnitude.*{maximum}"):
        visualize.displacement_to_color(np.zeros((2, 2, 2)), maximum)


def test_mask_to_gray():
    mask = np.float32([0, 0.25, 0.5, 1, -0.2, 1.7, np.nan]).reshape(1, -1, 1)
    gray = visualize.mask_to_gray(mask)
    assert gray.dtype == np.uint8 and gray.shape == (1, 7, 3)
    assert gray[0, :, 0].tolist() == [0, 64, 128, 255, 0, 255, 0]
    assert (gray == gray[..., :1]).all()
    with pytest.raises(ValueError, match=r"\[H, W, 1\], got \(4, 4, 3\)"):
        visualize.mask_to_gray(np.zeros((4, 4, 3)))


def test_images_are_in_their_rows_and_columns():
    colors = [[RED, GREEN], [BLUE, OTHER]]
    rows = [[_plain(color, 32, 32) for color in row] for row in colors]
    drawn = sheet.render_sheet(rows, ["one", "two"], cell=32)
    boxes = [[_box_of(drawn, color) for color in row] for row in colors]
    assert all(b - t == 32 and r - left == 32 for row in boxes for t, left, b, r in row)
    (a, b), (c, d) = boxes
    assert a[0] == b[0] < c[0] == d[0] and a[1] == c[1] < b[1] == d[1]
    assert c[0] - a[2] == 2
    assert tuple(drawn[a[2], a[1]].tolist()) == GAP
    assert (drawn[:8] == 255).all() and (drawn[:, -8:] == 255).all()


def test_reduced_image_is_enlarged_to_the_size_of_its_original(rng):
    original = _plain(RED, 40, 60)
    reduced = rng.integers(1, 200, (20, 30, 3), dtype=np.uint8)
    drawn = sheet.render_sheet([[original, reduced]], ["a", "b"], cell=130)
    top, left, bottom, right = _box_of(drawn, RED)
    assert (bottom - top, right - left) == (80, 120)  # Twice, the largest integer factor.
    expected = reduced.repeat(4, axis=0).repeat(4, axis=1)
    np.testing.assert_array_equal(drawn[top:bottom, right + 2 : right + 122], expected)
    # 101 x 67 reduced by 4 is 26 x 17; sides agree within a pixel.
    drawn = sheet.render_sheet([[_plain(RED, 101, 67), _plain(BLUE, 26, 17)]], ["a", "b"], cell=101)
    assert _size_of(drawn, RED) == (101, 67)
    height, width = _size_of(drawn, BLUE)
    assert height == 101 and abs(width - 67) <= 1


def test_large_images_are_averaged_down():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = (200, 100, 50)
    drawn = sheet.render_sheet([[stripes]], ["x"], cell=32)
    assert _size_of(drawn, (100, 50, 25)) == (32, 32)


def test_rows_are_scaled_independently():
    sides = {RED: (8, 8), BLUE: (300, 100), GREEN: (1, 500), OTHER: (500, 1)}
    rows = [[_plain(color, *side)] for color, side in sides.items()]
    drawn = sheet.render_sheet(rows, ["x"], cell=64)
    found = [_size_of(drawn, color) for color in sides]
    assert found == [(64, 64), (64, 21), (1, 64), (64, 1)]


def test_images_are_centered_in_their_rows():
    row = [_plain(GREEN, 200, 200), _plain(OTHER, 100, 200)]
    drawn = sheet.render_sheet([row], ["a", "b"], cell=200)
    top, _, bottom, _ = _box_of(drawn, GREEN)
    inner = _box_of(drawn, OTHER)
    assert inner[0] - top == bottom - inner[2] == 50


@pytest.mark.parametrize(
    "text", [{"title": "female to male"}, {"footer": "step 1000"}, {"wheel_magnitude": 3.0}]
)
def test_text_is_drawn_inside_the_margins(text):
    row = [_plain(RED, 300, 300), _plain(BLUE, 300, 300)]
    bare = sheet.render_sheet([row], ["a", "b"], cell=300)
    drawn = sheet.render_sheet([row], ["a", "b"], cell=300, **text)
    assert drawn.shape[0] * drawn.shape[1] > bare.shape[0] * bare.shape[1]
    assert _size_of(drawn, BLUE) == (300, 300)
    assert (drawn < 200).all(axis=2).sum() > (bare < 200).all(axis=2).sum()
    rim = [drawn[:8], drawn[-8:], drawn[:, :8], drawn[:, -8:]]
    assert all((part == 255).all() for part in rim)


def test_legend_states_the_maximum_and_shows_the_wheel():
    row = [_plain((0, 0, 0), 200, 600)]
    drawn = sheet.render_sheet([row], ["x"], cell=600, wheel_magnitude=7.0)
    other = sheet.render_sheet([row], ["x"], cell=600, wheel_magnitude=8.0)
    assert drawn.shape == other.shape and (drawn != other).any()
    band = drawn[_box_of(drawn, (0, 0, 0))[2] + 4 :].astype(int)
    colored = band.max(axis=2) - band.min(axis=2) > 60
    rows, columns = np.flatnonzero(colored.any(axis=1)), np.flatnonzero(colored.any(axis=0))
    disc = band[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert min(disc.shape[:2]) > 40
    middle, rest = len(disc) // 2, disc.shape[1] // 2
    assert disc[middle, rest].min() > 230  # White center, red on the right, yellow below.
    assert disc[middle, -4][0] == 255 and disc[middle, -4][1:].max() < 60
    assert disc[-4, rest][:2].min() > 200 and disc[-4, rest][2] < 60


def test_long_text_widens_the_sheet_or_wraps():
    row = [_plain(RED, 16, 16)]
    narrow = sheet.render_sheet([row], ["x"], cell=16)
    for text in ({"title": "word " * 30}, {"footer": "/a/long/path" * 12}):
        assert sheet.render_sheet([row], ["x"], cell=16, **text).shape[1] > 500
    assert sheet.render_sheet([row], ["title " * 10], cell=16).shape[1] > narrow.shape[1] + 100
    short = sheet.render_sheet([row], ["x"], cell=16, footer="word")
    long = sheet.render_sheet([row], ["x"], cell=16, footer="word " * 60)
    assert long.shape[1] == short.shape[1] and long.shape[0] > short.shape[0] + 40


def test_characters_without_glyphs_are_transliterated():
    row = [_plain(RED, 16, 16)]
    plain = sheet.render_sheet([row], ["e x"], cell=16, title="a -> b - 2")
    fancy = sheet.render_sheet(
        [row], ["\u00e9 \u00d7"], cell=16, title="a \u2192 b \u2212\u00a0\u00b2"
    )
    np.testing.assert_array_equal(fancy, plain)


@pytest.mark.parametrize(
    ("rows", "titles", "more", "message"),
    [
        ([], ["x"], {}, "0 rows, 1 columns"),
        ([[]], [], {}, "1 rows, 0 columns"),
        ([[_plain(RED, 4, 4)]], ["x", "y"], {}, "row 0 has 1 images for 2 columns"),
        ([[_plain(RED, 4, 4)]], ["x"], {"cell": 0}, "got 0"),
        ([[np.zeros((4, 4, 3))]], ["x"], {}, r"row 0, column 'x' must be.*float64 \(4, 4, 3\)"),
        ([[np.zeros((4, 0, 3), np.uint8)]], ["x"], {}, r"uint8 \(4, 0, 3\)"),
    ],
)
def test_invalid_arguments_are_an_error(rows, titles, more, message):
    with pytest.raises(ValueError, match=message):
        sheet.render_sheet(rows, titles, **more)


def test_written_file_is_the_rendered_sheet(tmp_path):
    rows = [[_plain(RED, 16, 16), _plain(BLUE, 8, 8)]]
    texts = {"cell": 48, "title": "t", "footer": "f", "wheel_magnitude": 2.0}
    path = tmp_path / "new" / "folder" / "sheet.png"
    sheet.write_sheet(path, rows, ["a", "b"], **texts)
    with Image.open(path) as image:
        assert image.format == "PNG"
        written = np.asarray(image)
    np.testing.assert_array_equal(written, sheet.render_sheet(rows, ["a", "b"], **texts))
    assert [p.name for p in path.parent.iterdir()] == ["sheet.png"]


def test_failed_write_keeps_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "sheet.png"
    sheet.write_sheet(path, [[_plain(RED, 8, 8)]], ["x"])
    before = path.read_bytes()

    def write_half(self, data):
        with open(self, "wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(type(path), "write_bytes", write_half)
    with pytest.raises(OSError, match="disk full"):
        sheet.write_sheet(path, [[_plain(BLUE, 8, 8)]], ["x"])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]
