"""A page of search results in one HTML file: nothing is loaded from elsewhere, pictures are inside."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from embedall_spark.visualize.drawing import on_white

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL import Image

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; }
p.about { color: GrayText; }
ol { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); list-style: none;
     margin: 0; padding: 0; }
li, div.query { border: 1px solid color-mix(in srgb, GrayText 40%, transparent); border-radius: .5rem; padding: .6rem; }
div.query { display: inline-block; margin-bottom: 1rem; max-width: 20rem; }
img { background: white; border-radius: .3rem; display: block; height: 9rem; margin: 0 auto .5rem; max-width: 100%;
      object-fit: contain; }
b { display: block; font-weight: 600; overflow-wrap: anywhere; }
dl { display: grid; gap: 0 .5rem; grid-template-columns: max-content 1fr; font-size: .85rem; margin: .3rem 0 0; }
dt { color: GrayText; } dd { margin: 0; overflow-wrap: anywhere; }
"""
_SIZE = 192  # pixels of a picture's longer side


class Card(NamedTuple):
    """One row of a table, as it is shown."""

    name: str
    fields: Mapping[str, str]
    """Metadata of the row, by column."""
    picture: Image.Image | None = None


def render(title: str, about: str, query: Card, hits: Sequence[Card]) -> str:
    """Return a page with the query above its hits, in their order; all texts are escaped."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        f'<h1>{escape(title)}</h1><p class="about">{escape(about)}</p>\n'
        f"{_query(query)}<ol>{''.join(map(_hit, hits))}</ol>\n</body></html>\n"
    )


def _query(card: Card) -> str:
    content = _picture(card) + _fields(card)
    return f'<div class="query">{content}</div>' if content else ""


def _hit(card: Card) -> str:
    return f"<li>{_picture(card)}<b>{escape(card.name)}</b>{_fields(card)}</li>"


def _fields(card: Card) -> str:
    if not card.fields:
        return ""
    pairs = (f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in card.fields.items())
    return f"<dl>{''.join(pairs)}</dl>"


def _picture(card: Card) -> str:
    if card.picture is None:
        return ""
    small = on_white(card.picture)
    small.thumbnail((_SIZE, _SIZE))
    content = io.BytesIO()
    small.save(content, format="JPEG", quality=85)
    encoded = base64.b64encode(content.getvalue()).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{encoded}" alt="{escape(card.name)}">'
