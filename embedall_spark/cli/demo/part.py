"""What the demo's parts share: how they run a kind, search, and print what came out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rich.text import Text

from embedall_spark import files, progress, session, tables
from embedall_spark.cli.shared.console import duration
from embedall_spark.launch import Options, launch
from embedall_spark.run_result import Summary
from embedall_spark.search import exact
from embedall_spark.visualize import scatter_map

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame
    from rich.console import Console

    from embedall_spark.sources.python_tables import PythonTables
    from embedall_spark.visualize.results_sheet import Panel

_MAPPED = 300  # ids on a map of the results sheet


class Demo(NamedTuple):
    """Where the demo prints, reads and writes."""

    console: Console
    folder: str
    code: PythonTables | None
    """What the Python files of the installed packages hold; None where no part needs it."""
    master: str | None


class Part(NamedTuple):
    """What came out of a part: the summary of its run, and its panel of the results sheet."""

    summary: Summary
    panel: Panel | None


def heading(demo: Demo, text: str) -> None:
    """Print the heading of a part."""
    demo.console.print(Text(f"\n== {text}", "bold cyan"))


def embed(
    demo: Demo, kind: str, name: str, path: str, things: str, preview: Callable[[DataFrame], object] | None = None
) -> tuple[Summary, DataFrame]:
    """Run a kind with its demo's configuration; return the run's summary and its vectors.

    Args:
        demo: the demo.
        kind: of the run.
        name: of the table.
        path: of the input.
        things: what the table's rows are, to print.
        preview: shows results as soon as there are vectors, before they are evaluated and written.
    """
    table = f"{demo.folder}/{name}"
    overrides = [f"input.path={path}", f"output.table={table}"]
    options = Options(master=demo.master, preview=preview)
    summary = launch(kind, str(session.conf_file(f"demo-{kind}.yaml")), overrides, options)
    vectors = tables.read(session.get("embedall demo"), table)
    if preview is not None and summary.get("repeated"):
        preview(vectors)
    demo.console.print(f"\n{summary['rows']:,} {things} embedded in {duration(summary['seconds'])}")
    return summary, vectors


def print_rows(demo: Demo, title: str, rows: Sequence[tuple[str, Iterable[str]]]) -> None:
    """Print a title, and below it a line for each name with what belongs to it; a terminal's line holds what fits."""
    width = max((len(name) for name, _ in rows), default=0)
    room = demo.console.width - width - 4 if demo.console.is_terminal else None
    demo.console.print(f"\n{title}:")
    for name, others in rows:
        text = ", ".join(others)
        if room is not None and len(text) > room:
            # The first one is shown, however long it is.
            text = text[: max(text.rfind(", ", 0, room), text.find(","))]
        demo.console.print(Text(f"  {name:>{width}}  ", "bold"), Text(text), sep="")


def neighbors(demo: Demo, vectors: DataFrame, ids: Sequence[str], restrict: int) -> list[tuple[str, list[str]]]:
    """Print and return the nearest neighbors of those of some ids that this machine has."""
    with progress.activity("searching"):
        rows = exact.find_vectors(vectors, ids)
        names = [name for name in ids if name in rows]
        if not names:
            return []
        queries, exclude = np.stack([rows[name] for name in names]), [{name} for name in names]
        hits = exact.top_k(vectors, queries, 7, exclude=exclude, restrict=restrict)
    lines = [(name, [neighbor for neighbor, _ in row]) for name, row in zip(names, hits, strict=True)]
    print_rows(demo, "Nearest neighbors, by cosine similarity", lines)
    return lines


def layout(vectors: DataFrame) -> tuple[list[str], NDArray[np.float32]]:
    """Return the most frequent ids, and their places on a map of the results sheet, float32 [n, 2]."""
    with progress.activity("drawing"):
        names, units = scatter_map.most_frequent(vectors, _MAPPED)
        return names, scatter_map.project(units, "tsne", 1)


def save(demo: Demo, summary: Summary, pictures: dict[str, tuple[bytes, str]]) -> None:
    """Write a part's pictures, its map among them, and print where they and its table are."""
    content = files.read_bytes(f"{summary['folder']}/artifacts/map.png")
    name = Path(summary["table"]).name
    pictures = pictures | {f"{name}-map.png": (content, "t-SNE of the vectors")}
    lines = [(summary["table"], f"the vectors (Delta table, version {summary['version']})")]
    for picture, (content, about) in pictures.items():
        path = Path(demo.folder, picture)
        path.write_bytes(content)
        lines.append((str(path), about))
    demo.console.print()
    width = max(len(path) for path, _ in lines)
    for path, about in lines:
        demo.console.print(f"  {path:<{width}}  {about}")
