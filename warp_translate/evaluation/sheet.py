"""Sheets of pictures for people: labelled grids, and the wheel that explains displacements.

NumPy and Pillow only; images are uint8 RGB ``[H, W, 3]``.
"""

import io
import os
import unicodedata
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from warp_translate import storage
from warp_translate.visualize import Picture, displacement_to_color

Row = Sequence[Picture]
_Font = ImageFont.FreeTypeFont

_INK = (34, 34, 34)
_SOFT_INK = (110, 110, 110)
GAP_GREY = (226, 226, 226)
"""The lines between the pictures of a sheet."""
_WHITE = (255, 255, 255)

_GAP = 2  # Between cells, in pixels of the sheet, as the two below.
_MARGIN = 24
_LABEL_SPACE = 12  # Between a label and the cell it belongs to.
_LINE_SPACING = 4
_FOOTER_LEAST = 240  # Narrowest footer; a sheet of one small column is made wider for it.

# Pillow's built-in font knows little but ASCII, and draws a box for anything else.
_WRITABLE = str.maketrans(
    {"\u2192": "->", "\u2190": "<-", "\u00d7": "x", "\u2212": "-", "\u2013": "-", "\u2014": "-"}
)


def render_sheet(
    rows: Sequence[Row],
    column_titles: Sequence[str],
    *,
    cell: int = 256,
    row_labels: Sequence[str] | None = None,
    title: str | None = None,
    footer: str | None = None,
    wheel_magnitude: float | None = None,
) -> Picture:
    """Draws a titled table of pictures on white.

    The pictures of a row are shown at one scale, given by its largest: that one is enlarged by a
    whole factor, or averaged down, so that its longest side fits ``cell``; the others get the same
    longest side, so that a reduced image lines up with its original and shows its pixels.

    Args:
      rows: at least one row of uint8 pictures ``[h, w, 3]`` of any size, one for each column.
      column_titles: a title for each column; a column is as wide as its title at least.
      cell: longest side of a picture on the sheet, in pixels.
      row_labels: a label for each row, on its left.
      title: one line at the top.
      footer: text at the bottom left, wrapped to the sheet; newlines are kept.
      wheel_magnitude: length in pixels that ``displacement_to_color`` painted in full colour; when
        given, the colour wheel is drawn at the bottom right as a legend.

    Returns:
      uint8 ``[H, W, 3]``.

    Raises:
      ValueError: a row or the labels do not match the titles or the rows, there is no row or no
        column, a picture is not uint8 ``[h, w, 3]``, or ``cell`` is below 1.
    """
    _check_table(rows, column_titles, row_labels)
    if cell < 1:
        raise ValueError(f"cell must be at least 1 px, got {cell}")
    column_titles = [_writable(heading) for heading in column_titles]
    row_labels = [_writable(label) for label in row_labels or ()]
    title, footer = _writable(title or ""), _writable(footer or "")
    text_size = min(max(cell // 15, 14), 24)
    text, large = _font(text_size), _font(round(1.5 * text_size))
    small = _font(max(round(0.85 * text_size), 13))

    scaled = [[_scaled(image, _row_side(row, cell)) for image in row] for row in rows]
    widths = [
        max(_text_size(heading, text)[0] + _LABEL_SPACE, *(row[i].width for row in scaled))
        for i, heading in enumerate(column_titles)
    ]
    heights = [max(image.height for image in row) for row in scaled]
    table = _table(scaled, widths, heights)

    label_width = max((_text_size(label, text)[0] for label in row_labels), default=0)
    table_left = _MARGIN + (label_width + _LABEL_SPACE if row_labels else 0)
    legend = _legend(wheel_magnitude, small) if wheel_magnitude is not None else None
    title_width, title_height = _text_size(title, large) if title else (0, 0)
    # The footer gets the room of its longest word at least, which may be a long path.
    footer_least = max([_FOOTER_LEAST, *(_text_size(word, small)[0] for word in footer.split())])
    beside_legend = legend.width + _MARGIN if legend else 0
    inner_width = max(
        table_left - _MARGIN + table.width,
        title_width,
        beside_legend + (footer_least if footer else -_MARGIN),
    )
    footer_width = inner_width - beside_legend
    footer_text = _wrapped(footer, small, footer_width) if footer else ""
    footer_height = _text_size(footer_text, small)[1] if footer_text else 0
    band_height = max(footer_height, legend.height if legend else 0)

    heading_top = _MARGIN + (title_height + _MARGIN // 2 if title else 0)
    table_top = heading_top + _text_size("Ag", text)[1] + _LABEL_SPACE // 2
    table_bottom = table_top + table.height
    band_top = table_bottom + (2 * _MARGIN // 3 if band_height else 0)
    size = (inner_width + 2 * _MARGIN, band_top + band_height + _MARGIN)

    sheet = Image.new("RGB", size, _WHITE)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((_MARGIN, _MARGIN), title, _INK, font=large, anchor="la")
    sheet.paste(table, (table_left, table_top))
    left = table_left + _GAP
    for heading, width in zip(column_titles, widths, strict=True):
        above = (left + width / 2, table_top - _LABEL_SPACE // 2)
        draw.text(above, heading, _INK, font=text, anchor="md")
        left += width + _GAP
    top = table_top + _GAP
    for label, height in zip(row_labels, heights, strict=False):
        beside = (table_left - _LABEL_SPACE, top + height / 2)
        draw.text(beside, label, _INK, font=text, anchor="rm")
        top += height + _GAP
    if footer_text:
        start = (_MARGIN, band_top + band_height / 2)
        draw.multiline_text(
            start, footer_text, _SOFT_INK, font=small, spacing=_LINE_SPACING, anchor="lm"
        )
    if legend:
        place = (size[0] - _MARGIN - legend.width, band_top + (band_height - legend.height) // 2)
        sheet.paste(legend, place)
    return np.asarray(sheet)


def write_sheet(
    path: str | os.PathLike[str],
    rows: Sequence[Row],
    column_titles: Sequence[str],
    *,
    cell: int = 256,
    row_labels: Sequence[str] | None = None,
    title: str | None = None,
    footer: str | None = None,
    wheel_magnitude: float | None = None,
) -> None:
    """Writes the picture of ``render_sheet`` as a PNG file, whole or not at all.

    Args:
      path: the file; its folder is made, and a file that is there is replaced.
      rows: see ``render_sheet``, as for all that follow.
      column_titles: a title for each column.
      cell: longest side of a picture on the sheet, in pixels.
      row_labels: a label for each row.
      title: one line at the top.
      footer: text at the bottom left.
      wheel_magnitude: length in pixels of the full colours of the legend's wheel.

    Raises:
      ValueError: as ``render_sheet``; nothing is written.
      OSError: the file cannot be written.
    """
    sheet = render_sheet(
        rows,
        column_titles,
        cell=cell,
        row_labels=row_labels,
        title=title,
        footer=footer,
        wheel_magnitude=wheel_magnitude,
    )
    encoded = io.BytesIO()
    Image.fromarray(sheet).save(encoded, format="PNG")
    storage.write_whole(storage.to_path(path), encoded.getvalue())


def _check_picture(image: Picture, place: str) -> None:
    """Raises a ValueError that names the place of anything but uint8 ``[h, w, 3]`` with pixels."""
    right = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size > 0
    if not right:
        raise ValueError(f"{place} must be uint8 [h, w, 3], got {image.dtype} {image.shape}")


def _check_table(
    rows: Sequence[Row], column_titles: Sequence[str], row_labels: Sequence[str] | None
) -> None:
    """Raises a ValueError where rows, titles and labels do not make a table of pictures."""
    if not rows or not column_titles:
        raise ValueError(
            f"a sheet needs rows and columns, got {len(rows)} rows, {len(column_titles)} columns"
        )
    if row_labels is not None and len(row_labels) != len(rows):
        raise ValueError(f"{len(rows)} rows need as many row_labels, got {len(row_labels)}")
    for i, row in enumerate(rows):
        if len(row) != len(column_titles):
            raise ValueError(f"row {i} has {len(row)} pictures for {len(column_titles)} columns")
        for image, heading in zip(row, column_titles, strict=True):
            _check_picture(image, f"row {i}, column {heading!r}")


def _row_side(row: Row, cell: int) -> int:
    """Longest side on the sheet of the pictures of a row."""
    longest = max(max(image.shape[:2]) for image in row)
    return longest * (cell // longest) if longest <= cell else cell


def _scaled(image: Picture, side: int) -> Image.Image:
    """Scales a picture to a longest side: repeats its pixels, or averages over areas."""
    height, width = image.shape[:2]
    longest = max(height, width)
    size = (max(round(width * side / longest), 1), max(round(height * side / longest), 1))
    method = Image.Resampling.NEAREST if side >= longest else Image.Resampling.BOX
    return Image.fromarray(np.asarray(image)).resize(size, method)


def _table(
    rows: Sequence[Sequence[Image.Image]], widths: Sequence[int], heights: Sequence[int]
) -> Image.Image:
    """Centres pictures in white cells of the given sizes, with grey gaps between and around."""
    size = (sum(widths) + _GAP * (len(widths) + 1), sum(heights) + _GAP * (len(heights) + 1))
    table = Image.new("RGB", size, GAP_GREY)
    top = _GAP
    for i, height in enumerate(heights):
        left = _GAP
        for j, width in enumerate(widths):
            table.paste(_WHITE, (left, top, left + width, top + height))
            if j < len(rows[i]):  # The last row of a grid may be short.
                image = rows[i][j]
                place = (left + (width - image.width) // 2, top + (height - image.height) // 2)
                table.paste(image, place)
            left += width + _GAP
        top += height + _GAP
    return table


def _legend(magnitude: float, font: _Font) -> Image.Image:
    """The colour wheel with a caption on its left."""
    caption = f"displacement: hue = direction it samples from,\nfull colour = {magnitude:.3g} px"
    text_width, text_height = _text_size(caption, font)
    diameter, finer = max(text_height + 12, 56), 4
    # The disc is drawn finer and averaged down, which smooths its rim.
    axis = (np.arange(diameter * finer) + 0.5) / (diameter * finer / 2) - 1
    wheel = np.stack(np.meshgrid(axis, axis), axis=-1)
    color = displacement_to_color(wheel, max_magnitude=1.0)
    color[np.hypot(wheel[..., 0], wheel[..., 1]) > 1] = 255

    legend = Image.new("RGB", (text_width + _LABEL_SPACE + diameter, diameter), _WHITE)
    ImageDraw.Draw(legend).multiline_text(
        (text_width, diameter / 2),
        caption,
        _SOFT_INK,
        font=font,
        spacing=_LINE_SPACING,
        align="right",
        anchor="rm",
    )
    legend.paste(_scaled(color, diameter), (text_width + _LABEL_SPACE, 0))
    return legend


def _font(size: int) -> _Font:
    """Pillow's built-in font, which needs no file."""
    font = ImageFont.load_default(size=size)
    if not isinstance(font, _Font):
        raise RuntimeError("this Pillow was built without FreeType, which sheets need for text")
    return font


def _writable(text: str) -> str:
    """Spells with ASCII, where that is readable, what the built-in font has no sign for."""
    decomposed = unicodedata.normalize("NFKD", text.translate(_WRITABLE))
    return "".join(sign for sign in decomposed if not unicodedata.combining(sign))


def _text_size(text: str, font: _Font) -> tuple[int, int]:
    """Width and height of lines of text in pixels; the height does not depend on the letters."""
    lines = text.split("\n")
    width = max(font.getlength(line) for line in lines)
    ascent, descent = font.getmetrics()
    return int(np.ceil(width)), len(lines) * (ascent + descent + _LINE_SPACING) - _LINE_SPACING


def _wrapped(text: str, font: _Font, width: int) -> str:
    """Breaks lines between words so that they fit a width, where words allow it."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return "\n".join(lines)
