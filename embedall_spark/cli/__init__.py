"""The ``embedall`` command.

Exit codes: 0 done, 1 other, 2 configuration, 3 bad data, 4 quality gate, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import logging
import signal
import sys
from typing import TYPE_CHECKING

import typer

from embedall_spark import __version__, progress
from embedall_spark.cli import (
    analogy,
    cluster,
    evaluate,
    export_import,
    index,
    projector,
    publish,
    run_kind,
    search,
    similar,
    suggest,
    train_backbone,
)
from embedall_spark.errors import Terminated

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(help="Embed all the things on Spark.", no_args_is_help=True, pretty_exceptions_enable=False)
run_kind.register(app)
similar.register(app)
analogy.register(app)
export_import.register(app)
evaluate.register(app)
projector.register(app)
search.register(app)
index.register(app)
suggest.register(app)
cluster.register(app)
publish.register(app)
train_backbone.register(app)


@app.command("version")
def _version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _is_no_interrupt(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], KeyboardInterrupt))


def _terminate(*_: object) -> None:
    raise Terminated


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and end the process with its exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(call(list(sys.argv[1:] if arguments is None else arguments)))


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
        return run_kind.explain(error)
    return 0
