"""How the demo ends: what was embedded, what to try next and where to look, on one screen."""

from __future__ import annotations

import os
import sysconfig
from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from embedall_spark.run_result import Summary

# What was embedded, by kind.
_THINGS = {
    "images": "pictures",
    "latent": "pictures, titles and words in one space",
    "nodes": "modules that import each other",
    "words": "words of docstrings",
    "sequences": "calls inside functions",
}
# Commands to try, of the kinds that were run; the first five are shown.
_COMMANDS = (
    ("words", "an analogy", "analogy {} rows row columns"),
    ("sequences", "similar calls", "similar {} socket.socket"),
    ("nodes", "similar modules", "similar {} matplotlib.pyplot"),
    ("images", "similar pictures", "search {} --id 1F431 --montage cats.png"),
    ("latent", "pictures by words", "search {} --text 'red heart'"),
    ("latent", "titles for a picture", "suggest {} --id 1F431"),
    ("latent", "blue, not green", "analogy {} --positive images:1F49A words:blue --negative words:green"),
    ("words", "similar words", "similar {} tensor"),
    ("images", "clusters", "cluster {} -k 12 --montage clusters.png"),
    ("nodes", "how well packages show", "evaluate {} --label-prefix ."),
)
_SHOWN = 5


def show(console: Console, folder: str, summaries: Mapping[str, Summary]) -> None:
    """Print what was embedded, five commands to try, and where to look.

    Args:
        console: where to print.
        folder: of the demo.
        summaries: of the runs, by kind.
    """
    scripts = os.path.relpath(sysconfig.get_path("scripts"))
    last = list(summaries.values())[-1]
    explored = " ".join(run["table"] for run in summaries.values())
    things = [(f"{run['rows']:,} {_THINGS[kind]}", run["table"]) for kind, run in summaries.items()]
    commands = [
        (what, f"{scripts}/embedall {command.format(summaries[kind]['table'])}")
        for kind, what, command in _COMMANDS
        if kind in summaries
    ]
    places = [
        ("all results in one picture", f"{folder}/results.png"),
        ("maps and searches", f"{folder}/*.png"),
        ("runs and their figures", f"{scripts}/mlflow ui --backend-store-uri {last['mlflow_uri']}"),
        ("the vectors in 3D", f"{scripts}/embedall projector {last['table']} --open"),
        ("search and a map", f"{scripts}/embedall explore {explored} --open"),
    ]
    console.print(Text("\n== Summary", "bold cyan"))
    for heading, rows in (("Embedded", things), ("Try next", commands[:_SHOWN]), ("Look at", places)):
        console.print(Text(f"{heading}:", "bold"))
        width = max(len(name) for name, _ in rows)
        for name, text in rows:
            console.print(f"  {name:<{width}}  {text}")
