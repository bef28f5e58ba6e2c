"""A sheet of pictures, each beside its suggestions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, ImageDraw, ImageOps

from embedall_spark.visualize.drawing import EMPTY, GRAY, INK, font, on_white, one_line, sheet_png, wrap

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MARGIN, _GAP, _SIZE, _TEXT = 16, 14, 96, 860  # pixels: margin, between rows, a picture, its texts
_HEADING, _LETTERS, _LINE = 16, 13, 19  # font sizes, and the height of a line
_LINES = 2  # of each list


class SuggestionRow(NamedTuple):
    """A picture, None where it is missing, its own title, and the suggestions by the name of their list."""

    picture: Image.Image | None
    title: str
    suggestions: Mapping[str, Sequence[str]]


def draw(rows: Sequence[SuggestionRow], title: str) -> bytes:
    """Return a PNG with a row for each picture; each list of suggestions takes two lines at most."""
    top = _MARGIN + 30
    indent = max([font(_LETTERS).getlength(name) for row in rows for name in row.suggestions], default=0) + 14
    sheet = Image.new("RGB", (3 * _MARGIN + _SIZE + _TEXT, top + (_SIZE + _GAP) * len(rows) + _MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), one_line(title), fill=INK, font=font(_HEADING))
    for row in rows:
        if row.picture is None:
            pen.rectangle((_MARGIN, top, _MARGIN + _SIZE - 1, top + _SIZE - 1), fill=EMPTY)
        else:
            small = on_white(ImageOps.contain(row.picture, (_SIZE, _SIZE), Image.Resampling.LANCZOS))
            sheet.paste(small, (_MARGIN + (_SIZE - small.width) // 2, top + (_SIZE - small.height) // 2))
        left, line = 2 * _MARGIN + _SIZE, top
        for text in wrap(row.title, _TEXT, 1, _LETTERS):
            pen.text((left, line), text, fill=GRAY, font=font(_LETTERS))
        for name, suggestions in row.suggestions.items():
            line += _LINE
            pen.text((left, line), name, fill=GRAY, font=font(_LETTERS))
            for number, text in enumerate(wrap(", ".join(suggestions), _TEXT - indent, _LINES, _LETTERS)):
                line += _LINE if number else 0
                pen.text((left + indent, line), text, fill=INK, font=font(_LETTERS))
        top += _SIZE + _GAP
    return sheet_png(sheet)
