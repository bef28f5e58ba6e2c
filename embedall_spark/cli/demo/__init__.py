"""The demo: what any fresh machine has, embedded and shown."""

from __future__ import annotations

import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING

from embedall_spark import config, progress, session
from embedall_spark.cli.demo import code, pictures, summary
from embedall_spark.cli.demo.part import Demo, Part, heading
from embedall_spark.cli.shared.console import console, duration
from embedall_spark.launch import Options, start
from embedall_spark.sources import python_tables
from embedall_spark.visualize import results_sheet

if TYPE_CHECKING:
    from collections.abc import Collection

    from embedall_spark.sources.python_tables import PythonTables

PARTS = {
    "nodes": code.nodes,
    "words": code.words,
    "sequences": code.sequences,
    "images": pictures.images,
    "latent": pictures.latent,
}
"""The demo's parts, by kind, in their order: the quickest comes first, and latent needs the vectors of images."""
_OF_CODE = {"words", "sequences", "nodes"}


def run(folder: str, master: str | None, kinds: Collection[str]) -> None:
    """Embed things of some of the kinds in PARTS into tables below ``folder``; print the results and a summary.

    Args:
        folder: where tables and pictures go; a second demo there repeats only what it has to.
        master: the Spark master; None: the properties file's.
        kinds: which parts; latent runs images first, whose vectors it needs.
    """
    since = time.monotonic()
    demo = Demo(console(), folder.rstrip("/"), None, master)
    progress.quiet_in_terminal()
    with progress.activity("starting Spark"):
        start("embedall demo", config.Output(table=f"{demo.folder}/words"), Options(master=master))
    parts: dict[str, Part] = {}
    needed = {*kinds, *(["images"] if "latent" in kinds else [])}
    for kind in (kind for kind in PARTS if kind in needed):
        if kind in _OF_CODE and demo.code is None:
            demo = demo._replace(code=_parse(demo))
        parts[kind] = PARTS[kind](demo)
    sheet = f"{demo.folder}/results.png"
    panels = [part.panel for part in parts.values() if part.panel is not None]
    credit = "" if parts.keys() <= _OF_CODE else pictures.CREDIT
    Path(sheet).write_bytes(results_sheet.draw(panels, credit))
    summary.show(demo.console, demo.folder, {kind: part.summary for kind, part in parts.items()})
    demo.console.print(f"\nThe demo took {duration(time.monotonic() - since)}.")


def _parse(demo: Demo) -> PythonTables:
    """Return the tables of what the installed packages' Python files hold, parsed now or by an earlier demo."""
    heading(demo, "The Python files of the installed packages")
    since = time.monotonic()
    with progress.activity("parsing Python files"):
        spark, packages = session.get("embedall demo"), sysconfig.get_paths()["purelib"]
        tables = python_tables.write(spark, packages, f"{demo.folder}/python")
    parsed = duration(time.monotonic() - since)
    demo.console.print(f"{tables.files:,} files parsed in {parsed}; not Python, and left out: {tables.refused}")
    return tables
