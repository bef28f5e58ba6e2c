"""How commands print: a line per row, whatever is in the data, in a terminal of any width and in a pipe."""

from __future__ import annotations

import itertools
import re
import textwrap
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from embedall_spark.config_help import Option
    from embedall_spark.search.local_table import Hit

_MAX_WIDTH = 100  # columns of running text
_MAX_CELLS = 200  # of an id or a title
_HEAD, _TAIL = 150, 40  # what is shown of a longer one
# Control characters, line and paragraph separators, and what changes the direction of the text after it.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def console() -> Console:
    """Return a console that interprets no markup: ids come from data, and they hold brackets."""
    return Console(markup=False, highlight=False, soft_wrap=True)


def count(number: int, noun: str) -> str:
    """Return a number and its noun, in the plural unless the number is 1."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a duration as "42 s", or "4 min 12 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def printable(text: str) -> str:
    r"""Return a text from the data as it fits on a line.

    Control characters are escaped (a line break is shown as ``\n``); a text of over 200 cells lacks its middle.
    """
    text = _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
    return text if cell_len(text) <= _MAX_CELLS else f"{text[:_HEAD]} … {text[-_TAIL:]}"


def table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in straight columns; the first is the heading."""
    _lines(console(), _aligned(rows))


def neighbors(names: Sequence[str], hits: Sequence[Sequence[Hit]], nothing: str) -> None:
    """Print each name with its neighbors and their scores: side by side if the terminal is wide enough, else below.

    Args:
        names: the headings.
        hits: the neighbors of each.
        nothing: what to print in place of no neighbors.
    """
    out = console()
    cells = [[f"{printable(neighbor)} {score:.3f}" for neighbor, score in ranked] or [nothing] for ranked in hits]
    columns = [[name, *below] for name, below in zip(names, cells, strict=True)]
    beside = _aligned(list(itertools.zip_longest(*columns, fillvalue="")))
    if len(names) > 1 and out.is_terminal and max(map(cell_len, beside)) <= out.width:
        _lines(out, beside)
        return
    for index, (name, ranked) in enumerate(zip(names, hits, strict=True)):
        if index:
            out.print()
        rows = [(f"{rank:>4}", neighbor, f"{score:.3f}") for rank, (neighbor, score) in enumerate(ranked, 1)]
        _lines(out, [printable(name), *(_aligned(rows) if rows else [f"   {nothing}"])])


def options(rows: Iterable[Option]) -> None:
    """Print each option with its type and default, and below that its meaning."""
    out = console()
    for option in rows:
        default = "required" if option.default == "required" else f"default {option.default}"
        out.print(Text.assemble((option.path, "bold"), f"  {_type(option.kind)}, {default}"))
        width = min(out.width, _MAX_WIDTH) - 4
        for line in textwrap.wrap(option.description, width, break_long_words=False, break_on_hyphens=False):
            out.print(f"    {line}")


def _type(kind: str) -> str:
    """Return an option's type in the words of YAML."""
    kind = re.sub(r"Literal\[(.*?)\]", lambda match: match[1].replace("'", "").replace(", ", " | "), kind)
    return re.sub(r"\bembedall_spark[\w.]+", "section", kind).replace("None", "null")


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines with straight columns; some characters take two cells in a terminal."""
    texts = [list(map(printable, row)) for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*texts, strict=True)]
    return ["  ".join(map(set_cell_size, row, widths)).rstrip() for row in texts]


def _lines(out: Console, lines: Sequence[str]) -> None:
    out.print(Text(lines[0], "bold"))
    for line in lines[1:]:
        out.print(line)
