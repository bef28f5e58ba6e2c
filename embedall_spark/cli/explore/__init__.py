"""The command that shows tables of vectors as a page in the browser: search, arithmetic and a map."""

from __future__ import annotations

import logging
import secrets
import webbrowser

import typer

from embedall_spark.cli.shared import options
from embedall_spark.errors import ConfigError

log = logging.getLogger(__name__)

_HOST = "127.0.0.1"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("explore")(_explore)


def _explore(
    tables: list[str] = typer.Argument(
        help="Tables of vectors in this machine's file tree; TABLE@3 is version 3 of one.", metavar="TABLE..."
    ),
    port: int = typer.Option(0, "--port", min=0, max=65535, help="Port on 127.0.0.1; 0: a free one."),
    browser: bool = typer.Option(False, "--open", help="Open the page in the browser."),
    limit: float = options.LIMIT,
) -> None:
    """Show tables as a page in the browser: search, arithmetic, suggestions for a picture, a map, two side by side."""
    from embedall_spark.cli.explore import server, space

    dropped: dict[str, bytes] = {}
    spaces = [space.open_space(name, limit, dropped) for name in tables]
    if len({shown.name for shown in spaces}) < len(spaces):
        raise ConfigError("a table is given twice; give each table or version once")
    token = secrets.token_urlsafe(16)
    with server.listening(server.application(spaces, token), _HOST, port) as (run, actual):
        address = f"http://{_HOST}:{actual}/{token}/"
        typer.echo(f"{address}  (Ctrl-C ends it; whoever has this address can read these tables)")
        if browser:
            webbrowser.open(address)
        run()
