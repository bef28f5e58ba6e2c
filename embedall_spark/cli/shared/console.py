"""How commands print: texts as they are, nothing cut, in a terminal of any width and in a pipe."""

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
    from embedall_spark.search.exact import Hit

_WIDEST = 100  # columns of running text


def console() -> Console:
    """Return a console that takes no text for markup: names come from data, and they hold brackets."""
    return Console(markup=False, highlight=False, soft_wrap=True)


def count(number: int, noun: str) -> str:
    """Return a number and its noun, in the plural where it is one."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a duration as "42 s", or "4 min 12 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in straight columns; the first is the heading."""
    _lines(console(), _aligned(rows))


def neighbours(names: Sequence[str], found: Sequence[Sequence[Hit]]) -> None:
    """Print each name with its neighbours and their scores: side by side where a terminal has the width, else below."""
    out = console()
    cells = [[f"{near} {score:.3f}" for near, score in hits] for hits in found]
    columns = [[name, *below] for name, below in zip(names, cells, strict=True)]
    beside = _aligned(list(itertools.zip_longest(*columns, fillvalue="")))
    if len(names) > 1 and out.is_terminal and max(map(cell_len, beside)) <= out.width:
        _lines(out, beside)
        return
    for at, (name, hits) in enumerate(zip(names, found, strict=True)):
        if at:
            out.print()
        ranked = [(f"{rank:>4}", near, f"{score:.3f}") for rank, (near, score) in enumerate(hits, 1)]
        _lines(out, [name, *_aligned(ranked)])


def options(found: Iterable[Option]) -> None:
    """Print each option with its type and default, and below that its meaning."""
    out = console()
    for option in found:
        default = "required" if option.default == "required" else f"default {option.default}"
        out.print(Text.assemble((option.path, "bold"), f"  {_type(option.kind)}, {default}"))
        width = min(out.width, _WIDEST) - 4
        for line in textwrap.wrap(option.description, width, break_long_words=False, break_on_hyphens=False):
            out.print(f"    {line}")


def _type(kind: str) -> str:
    """Return an option's type in the words in which YAML writes its values."""
    kind = re.sub(r"Literal\[(.*?)\]", lambda found: found[1].replace("'", "").replace(", ", " | "), kind)
    return re.sub(r"\bembedall_spark[\w.]+", "section", kind).replace("None", "null")


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines with straight columns; some characters take two places in a terminal."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(set_cell_size, row, widths)).rstrip() for row in rows]


def _lines(out: Console, lines: Sequence[str]) -> None:
    out.print(Text(lines[0], "bold"))
    for line in lines[1:]:
        out.print(line)
