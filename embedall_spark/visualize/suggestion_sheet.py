"""Pictures, and beside each what is suggested for it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, ImageDraw, ImageOps

from embedall_spark.visualize.montage import cut, font, on_white, plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_EDGE, _GAP, _SIZE, _TEXT = 16, 14, 96, 860  # pixels: margin, between rows, a picture, its texts
_HEAD, _LETTERS, _STEP = 16, 13, 19
_INK, _SOFT, _GREY = "#18181b", "#71717a", "#e4e4e7"
_LINES = 2  # of each list


class SuggestionRow(NamedTuple):
    """A picture, None where it could not be had, what it is called, and lists of what is suggested, by their names."""

    picture: Image.Image | None
    called: str
    lists: Mapping[str, Sequence[str]]


def draw(rows: Sequence[SuggestionRow], title: str) -> bytes:
    """Return a PNG with a row for each picture; a list takes two lines at most."""
    top = _EDGE + 30
    beside = max([font(_LETTERS).getlength(name) for row in rows for name in row.lists], default=0) + 14
    sheet = Image.new("RGB", (3 * _EDGE + _SIZE + _TEXT, top + (_SIZE + _GAP) * len(rows) + _EDGE), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_EDGE, _EDGE), plain(title), fill=_INK, font=font(_HEAD))
    for row in rows:
        if row.picture is None:
            pen.rectangle((_EDGE, top, _EDGE + _SIZE - 1, top + _SIZE - 1), fill=_GREY)
        else:
            small = on_white(ImageOps.contain(row.picture, (_SIZE, _SIZE), Image.Resampling.LANCZOS))
            sheet.paste(small, (_EDGE + (_SIZE - small.width) // 2, top + (_SIZE - small.height) // 2))
        left, line = 2 * _EDGE + _SIZE, top
        for text in cut(row.called, _TEXT, 1, _LETTERS):
            pen.text((left, line), text, fill=_SOFT, font=font(_LETTERS))
        for name, some in row.lists.items():
            line += _STEP
            pen.text((left, line), name, fill=_SOFT, font=font(_LETTERS))
            for at, text in enumerate(cut(", ".join(some), _TEXT - int(beside), _LINES, _LETTERS)):
                line += _STEP if at else 0
                pen.text((left + beside, line), text, fill=_INK, font=font(_LETTERS))
        top += _SIZE + _GAP
    content = io.BytesIO()
    sheet.save(content, format="PNG")
    return content.getvalue()
