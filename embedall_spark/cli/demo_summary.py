"""How the demo ends: a tour of what it has made, on one screen."""

from __future__ import annotations

import os
import sysconfig
from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from embedall_spark.launch import Summary

# What has been embedded, by kind.
_THINGS = {
    "words": "words of docstrings",
    "sequences": "calls inside functions",
    "nodes": "modules that import each other",
    "images": "pictures",
    "latent": "pictures, titles and words in one space",
}
# What to try, the first five of the kinds that have been run: what it shows, and the command.
_TRY = (
    ("words", "an analogy", "analogy {} rows row columns"),
    ("sequences", "calls near one", "similar {} socket.socket"),
    ("nodes", "modules near one", "similar {} matplotlib.pyplot"),
    ("images", "pictures near one", "search {} --id 1F431 --montage cats.png"),
    ("latent", "pictures by words", "search {} --text 'red heart'"),
    ("latent", "titles for one", "suggest {} --id 1F431"),
    ("latent", "blue, not green", "analogy {} --positive images:1F49A words:blue --negative words:green"),
    ("words", "words near one", "similar {} tensor"),
    ("images", "clusters", "cluster {} -k 12 --montage clusters.png"),
    ("nodes", "packages told", "evaluate {} --label-prefix ."),
)
_TRIED = 5


def show(console: Console, folder: str, found: Mapping[str, Summary]) -> None:
    """Print what was embedded, five things to try, and where to look.

    Args:
        console: where to.
        folder: of the demo.
        found: the runs' summaries, by kind.
    """
    scripts = os.path.relpath(sysconfig.get_path("scripts"))
    last = list(found.values())[-1]
    things = [(f"{done['rows']:,} {_THINGS[kind]}", done["table"]) for kind, done in found.items()]
    ways = [(what, command.format(found[kind]["table"])) for kind, what, command in _TRY if kind in found][:_TRIED]
    looks = [
        ("maps and searches", f"{folder}/*.png"),
        ("runs and figures", f"{scripts}/mlflow ui --backend-store-uri {last['mlflow_uri']}"),
        ("the vectors", f"{scripts}/embedall projector {last['table']} --open"),
    ]
    console.print("\n== A tour")
    for heading, rows in (
        ("Embedded", things),
        ("To try", [(what, f"{scripts}/embedall {command}") for what, command in ways]),
        ("Where to look", looks),
    ):
        console.print(Text(f"{heading}:", "bold"))
        width = max(len(name) for name, _ in rows)
        for name, text in rows:
            console.print(f"  {name:<{width}}  {text}")
