"""The demo: what any fresh machine has, embedded and shown."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from embedall_spark import files, session, tables
from embedall_spark.launch import Options, Summary, launch
from embedall_spark.search import analogy, exact

if TYPE_CHECKING:
    from embedall_spark.search.exact import Hit

# Words that everyday English knows otherwise: what stands beside them tells what the text is about.
_WORDS = (
    *("array", "dataframe", "gradient", "probability", "kernel", "tree"),
    *("thread", "exception", "cookie", "socket", "unicode", "plot", "monday", "deprecated"),
)
# Among so many most frequent words: rarer ones are names that only their authors know.
_KNOWN = 8000
_ANALOGIES = (
    ("rows", "row", "columns"),
    ("min", "max", "lower"),
    ("read", "reader", "write"),
    ("encode", "decode", "serialize"),
    ("numpy", "array", "pandas"),
    ("x", "y", "width"),
)


def run(folder: str, master: str | None) -> None:
    """Embed words into ``folder``/words and print what came out and how to go on."""
    console = Console(markup=False, highlight=False, soft_wrap=True)
    packages = sysconfig.get_paths()["purelib"]
    console.print("Embedding the words in the docstrings of the installed Python packages:", os.path.relpath(packages))
    table = f"{folder.rstrip('/')}/words"
    overrides = [f"input.path={packages}", f"output.table={table}"]
    found = launch("words", str(session.conf_file("demo-words.yaml")), overrides, Options(master=master))
    picture = Path(folder, "words-map.png")
    picture.write_bytes(files.read_bytes(f"{found['folder']}/artifacts/map.png"))
    _show(console, table, found)
    console.print(
        f"\nThe table:  {table} (Delta, version {found['version']})"
        f"\nThe map:    {picture}"
        f"\nThe run:    {found['run_id']} in MLflow, {found['mlflow_uri']}"
        "\n\nGo on with:"
        f"\n  .venv/bin/embedall similar {table} tensor"
        f"\n  .venv/bin/embedall analogy {table} rows row columns"
        f"\n  .venv/bin/mlflow ui --backend-store-uri {found['mlflow_uri']}"
    )


def _show(console: Console, table: str, found: Summary) -> None:
    vectors = tables.read(session.get("embedall demo"), table)
    console.print(f"\n{found['rows']:,} words in {found['seconds']:.0f} s; documents refused: {found['rejected']}")
    console.print("\nNearest neighbours, by cosine:")
    for name, hits in zip(_WORDS, exact.neighbours(vectors, _WORDS, 7, _KNOWN), strict=True):
        console.print(Text(f"  {name:>12}  ", "bold"), Text(_names(hits)), sep="")
    console.print("\nAnalogies (3CosAdd):")
    for (a, b, c), hits in zip(_ANALOGIES, analogy.answer(vectors, _ANALOGIES, 3, restrict=_KNOWN), strict=True):
        console.print(Text(f"  {a} is to {b} as {c} is to ", "bold"), Text(_names(hits)), sep="")


def _names(hits: list[Hit]) -> str:
    return ", ".join(name for name, _ in hits)
