"""Detects graph formats other than edge lists by a file's first lines, and says how to convert them. Uses no Spark."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from embedall_spark.errors import BadData

if TYPE_CHECKING:
    from collections.abc import Iterable

HEADERS = [
    ("source", "target"), ("src", "dst"), ("from", "to"), ("source", "destination"), ("fromnodeid", "tonodeid"),
    ("fromnode", "tonode"), ("node1", "node2"), ("id1", "id2"), ("sourceid", "targetid"),
]  # fmt: skip
"""First two fields of a file, in small letters without blanks, that name columns."""

_CONVERT = "write it as an edge list, in Python: networkx.write_edgelist(networkx.{}, 'edges.txt', data=False)"
_FORMATS = {
    r"%%MatrixMarket": (
        "MatrixMarket, whose line of sizes would become an edge",
        "remove all lines up to that one, or write the edges anew",
    ),
    r"<\?xml[^>]*>\s*(<!--.*?-->\s*)*<gexf|<gexf": ("GEXF", _CONVERT.format("read_gexf('{}')")),
    r"<\?xml|<graphml|<!DOCTYPE": ("GraphML or other XML", _CONVERT.format("read_graphml('{}')")),
    r"(#.*\s+)*(Creator\s+\".*\s+|Version\s+.*\s+|comment\s+\".*\s+)*graph\s*\[": (
        "GML", _CONVERT.format("read_gml('{}')"),
    ),
    r"(%.*\s+)*\*(Vertices|Network|Arcs|Edges)\b": ("Pajek", _CONVERT.format("read_pajek('{}')")),
    r"(strict\s+)?(di)?graph\b[^\[\n]*\{": ("DOT", _CONVERT.format("nx_pydot.read_dot('{}')")),
    r"\s*[\[{]": ("JSON", "set input.format=json if it has one object per line; else write it so"),
}  # fmt: skip
_ADJACENCY = (
    "an adjacency list (a vertex and all its neighbors in a line)",
    _CONVERT.format("read_adjlist('{}')") + "; if further fields are to be ignored, keep two or three in each line",
)
_METIS = ("METIS (a line of sizes, then the neighbors of each vertex)", "write each edge in a line of its own")
_MAX_LINES = 1000


def check(path: str, head: bytes) -> None:
    """Raise BadData if a file is in another format than an edge list; names the format and how to convert it.

    Args:
        path: the file.
        head: its first bytes, in UTF-8.
    """
    text = head.decode("utf-8", "replace").lstrip()
    for pattern, (name, remedy) in _FORMATS.items():
        if re.match(pattern, text, re.IGNORECASE | re.DOTALL if "xml" in pattern else re.IGNORECASE):
            raise BadData(f"{path}: {name}, not an edge list; {remedy.format(path)}")
    whole = len(head) < 1 << 16
    lines = text.splitlines() if whole else text.splitlines()[:-1]
    rows = [line.split() for line in lines[:_MAX_LINES] if line.strip() and not re.match(r"\s*[#%]|.*[,\t\"]", line)]
    if whole and len(lines) <= _MAX_LINES and _is_metis(rows):
        raise BadData(f"{path}: {_METIS[0]}, not an edge list; {_METIS[1]}")
    if _is_adjacency(rows):
        raise BadData(f"{path}: {_ADJACENCY[0]}, not an edge list; {_ADJACENCY[1].format(path)}")


def check_inputs(path: str, heads: Iterable[tuple[str, bytes]], whole: bool = True) -> None:
    """Raise BadData if the first files of an input are in another format, or hold comments only.

    Args:
        path: the input.
        heads: path and first bytes of its first files.
        whole: whether it has no other files.
    """
    comments = whole
    for file, head in heads:
        check(file, head)
        lines = head.decode("utf-8", "replace").splitlines()
        comments = comments and len(head) < 1 << 16 and all(re.match(r"\s*([#%]|$)", line) for line in lines)
    if comments:
        raise BadData(f"{path}: no edge found, only empty lines and comments (lines that begin with # or %)")


def _is_adjacency(rows: list[list[str]]) -> bool:
    """Tell whether lines have as many fields as vertices have neighbors."""
    widths = [len(row) for row in rows]
    if not widths or max(widths) <= 3:
        return False
    many = sum(width > 3 for width in widths)
    return len(set(widths)) > 1 and (1 in widths or len(set(widths)) > 3 or 2 * many > len(widths))


def _is_metis(rows: list[list[str]]) -> bool:
    """Tell whether the first line says how many lines follow, and these name each other."""
    if not rows or not 2 <= len(rows[0]) <= 4 or not all(field.isdigit() for row in rows for field in row):
        return False
    vertices, edges, lists = int(rows[0][0]), int(rows[0][1]), rows[1:]
    if len(lists) != vertices or sum(map(len, lists)) != 2 * edges:
        return False
    neighbors = {str(number): set(row) for number, row in enumerate(lists, 1)}
    return all(vertex in neighbors.get(other, ()) for vertex, others in neighbors.items() for other in others)
