"""The demo: what any fresh machine has, embedded and shown."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

from rich.console import Console

from embedall_spark import session, tables
from embedall_spark.cli.query import show_neighbours
from embedall_spark.launch import Options, Summary, launch
from embedall_spark.search import analogy, exact

_WORDS = (
    ("array", "gradient", "dataframe", "thread"),
    ("kernel", "cluster", "token", "matrix"),
    ("exception", "encoding", "probability", "plot"),
)
_ANALOGIES = (
    ("rows", "row", "columns"),
    ("min", "max", "lower"),
    ("read", "reader", "write"),
    ("encode", "encoder", "decode"),
)


def run(folder: str, master: str | None) -> None:
    """Embed words into ``folder``/words and print what came out and how to go on."""
    console = Console(markup=False, highlight=False)
    packages = sysconfig.get_paths()["purelib"]
    console.print(f"Embedding the words in the docstrings of the Python packages in {packages}")
    table = f"{folder.rstrip('/')}/words"
    overrides = [f"input.path={packages}", f"output.table={table}"]
    found = launch("words", str(session.conf_file("demo-words.yaml")), overrides, Options(master=master))
    _show(console, table, found)


def _show(console: Console, table: str, found: Summary) -> None:
    spark = session.get("embedall demo")
    vectors = tables.read(spark, table)
    console.print(f"\n{found['rows']:,} words, {found['seconds']:.0f} s; refused documents: {found['rejected']:,}\n")
    # One search for all: each goes over the whole table.
    names = [name for group in _WORDS for name in group]
    neighbours = dict(zip(names, exact.neighbours(vectors, names, 7), strict=True))
    console.print("Nearest neighbours, by cosine:")
    for group in _WORDS:
        show_neighbours(group, [neighbours[name] for name in group])
        console.print()
    console.print("Analogies (3CosAdd):")
    for (a, b, c), hits in zip(_ANALOGIES, analogy.answer(vectors, _ANALOGIES, 3), strict=True):
        console.print(f"  {a} is to {b} as {c} is to {', '.join(name for name, _ in hits)}")
    where = Path(found["folder"], "artifacts", "map.png")
    console.print(
        f"\nThe table:  {table} (Delta, version {found['version']})"
        f"\nThe map:    {os.path.relpath(where)}"
        f"\nThe run:    {found['mlflow_uri']}"
        "\n\nGo on with:"
        f"\n  .venv/bin/embedall similar {table} tensor"
        f"\n  .venv/bin/embedall analogy {table} rows row columns"
        f"\n  .venv/bin/mlflow ui --backend-store-uri {found['mlflow_uri']}"
    )
