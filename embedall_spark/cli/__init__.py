"""The ``embedall`` command.

Exit codes: 0 done, 1 other, 2 configuration, 3 bad data, 4 quality gate, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer
import typer.core
import typer.main

from embedall_spark import __version__, kinds, progress
from embedall_spark.cli.shared import failure
from embedall_spark.errors import Terminated

if TYPE_CHECKING:
    from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1  # prctl(2)
# Module and first sentence of each command's help: the module is imported when its command is called.
COMMANDS = {name: ("run_kind", f"Embed {name}: run it, or go on with a run that was killed.") for name in kinds.names()}
COMMANDS |= {
    "demo": (
        "run_kind",
        "Embed words, calls, modules and pictures of the installed Python packages and show what came out.",
    ),
    "doctor": (
        "run_kind",
        "Check Python, Java, Spark, Delta, memory, disk and the MLflow store; resolve Delta's jars.",
    ),
    "clean": ("run_kind", "Remove stages, checkpoints, spools and kept inputs of old runs; tables and manifests stay."),
    "config": ("run_kind", "Show every option of a kind with its default."),
    "similar": ("similar", "Show the nearest neighbors of ids, by cosine."),
    "analogy": ("analogy", "A is to B as C is to what? Or: what is near to some ids without others?"),
    "export": (
        "export_import",
        "Write vectors for gensim, numpy, pandas, fastText or embedding-atlas.",
    ),
    "publish": (
        "publish",
        "Rotate a table onto the published one, measure both, and replace the published one or hold the new one back.",
    ),
    "history": ("publish", "List the versions of a table: when, by whom, from what, and how far it moved."),
    "rollback": ("publish", "Make an earlier version of a table its latest one, and of the tables beside it."),
    "diff": (
        "publish",
        "Compare two tables, or two versions of one, after the best rotation; of two seeds: the noise of a retrain.",
    ),
    "baseline": (
        "baseline",
        "Train twice, with two seeds, and keep the neighbors' overlap where the gate of the published table reads it.",
    ),
    "pipeline": (
        "pipeline",
        "Run the steps of a file in order: several kinds, publish, evaluate. What has not changed is not run again.",
    ),
    "import": ("export_import", "Read vectors in word2vec's or GloVe's format into a table."),
    "evaluate": (
        "evaluate",
        "Measure vectors by analogies, human similarity scores and labels; the figures join the run that made them.",
    ),
    "projector": (
        "projector",
        "Write vectors, titles and pictures for TensorBoard's embedding projector, and open it.",
    ),
    "search": (
        "search",
        "Show what is nearest by cosine to a row, a vector, a picture or words; or search by every row of a table.",
    ),
    "index": ("index", "Build an index for approximate search, or replace it; it serves one version of its table."),
    "suggest": (
        "suggest",
        "Suggest titles of items near to a row or a picture, and single words for it; or for every row of a table.",
    ),
    "cluster": (
        "cluster",
        "Cluster a table by k-means over its unit vectors; show each cluster's size and the members at its center.",
    ),
    "explore": (
        "explore",
        "Show tables as a page in the browser: search, arithmetic, suggestions for a picture, a map, two side by side.",
    ),
    "shell": (
        "shell",
        "Answer questions one after the other: lines are commands without 'embedall'. Ctrl-D ends it.",
    ),
    "train-backbone": (
        "train_backbone",
        "Train a network on labeled pictures, or resume; its file is a backbone: name trained, weights FILE.",
    ),
}


class _Commands(typer.core.TyperGroup):
    """The commands, of which only the one that is called is imported."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name, (_, text) in COMMANDS.items():
            self.add_command(typer.core.TyperCommand(name, help=text))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the name, the command and its arguments, as click does, with the command's module imported."""
        if args[0] in COMMANDS:
            self.add_command(load(args[0]))
        return super().resolve_command(ctx, args)


def load(name: str) -> typer.core.TyperCommand:
    """Import a command's module and return the command."""
    commands = typer.Typer()
    import_module(f"{__name__}.{COMMANDS[name][0]}").register(commands)
    command = typer.main.get_group(commands).commands[name]
    assert isinstance(command, typer.core.TyperCommand)
    return command


app = typer.Typer(
    cls=_Commands, help="Embed all the things on Spark.", no_args_is_help=True, pretty_exceptions_enable=False
)


@app.callback()
def _callback() -> None:
    """Embed all the things on Spark."""


@app.command("version")
def _version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _is_no_interrupt(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], KeyboardInterrupt))


def _terminate(*_: object) -> None:
    # A second signal must not interrupt the notes of how the run ended; SIGKILL still can.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated


def _end_with_spark_submit() -> None:
    """Let the kernel send this process SIGTERM when spark-submit, its parent, dies: that alone is what is signaled."""
    if "PYSPARK_GATEWAY_PORT" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and end the process with its exit code; return where that is 0."""
    # Elsewhere than in the main thread Python allows no handlers.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
        _end_with_spark_submit()
    # Databricks takes any SystemExit for a failure.
    if code := call(list(sys.argv[1:] if arguments is None else arguments)):
        sys.exit(code)


def call(arguments: list[str]) -> int:
    """Run the command and return its exit code."""
    progress.configure_logging()
    # py4j tells the root logger, with a stack, that Ctrl-C came while it waited for Spark.
    logging.getLogger().addFilter(_is_no_interrupt)
    # Spark logs an error in SQL, as JSON with its stack, before it raises it.
    logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)
    try:
        app(arguments)
    except SystemExit as end:
        # typer has printed what is wrong with the arguments.
        return int(end.code or 0)
    except (Exception, KeyboardInterrupt) as error:
        return failure.explain(error)
    return 0
