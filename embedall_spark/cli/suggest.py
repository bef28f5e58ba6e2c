"""The command that suggests titles and words for a row of a latent table, or for a picture in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import typer
from pyspark.sql import functions as F

from embedall_spark import files, tables
from embedall_spark.cli import indexes, made, query, show
from embedall_spark.errors import ConfigError
from embedall_spark.search import exact, metadata, spelling

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedall_spark.align.model import LatentModel
    from embedall_spark.search.exact import Hit

# Many items may have the same title.
_REACH = 20


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("suggest")(_suggest)


def _suggest(
    table: str = query.TABLE,
    name: str | None = typer.Option(None, "--id", help="For a row: its id, with or without its kind before a colon."),
    image: str | None = typer.Option(None, "--image", help="For a picture, embedded as the left side's were."),
    n: int = typer.Option(10, "-n", min=1, max=1000, help="How many titles, and how many words."),
    prefix: str = typer.Option("", "--prefix", help="A title that is begun: show only what goes on from there."),
    master: str | None = query.MASTER,
) -> None:
    """Suggest titles of items near to a row or a picture, and single words for it."""
    if (name is None) == (image is None):
        raise ConfigError("give --id or --image, one of them")
    opened = indexes.open_at_version(table, master)
    space = made.space(opened.spark, table)
    if space is None or space.model.text is None:
        raise ConfigError(f"{table} has no titles: need a table that 'embedall latent' has made of titles or tags")
    if image is not None:
        latent, length = made.in_space(opened.spark, space, image)
    else:
        latent, length = _row(opened, space.model.left_kind, name or "")
    titles = _titles(opened, space, latent, prefix, n)
    words = [hit for hit in space.model.guess(latent, length) if _goes_on(space.model, prefix, hit[0])][:n]
    show.neighbours(["titles", "words"], [titles, words])


def _row(opened: indexes.Opened, kind: str, name: str) -> tuple[NDArray[np.float32], float]:
    """Return a row's vector and its length before it was made 1; an id without its kind is of the left side."""
    whole = f"{kind}:{name}"
    rows = opened.vectors.where(F.col("id").isin(name, whole)).orderBy((F.col("id") != name), "id")
    row = rows.select("vector", "norm").first()
    if row is None:
        raise spelling.unknown(opened.vectors.where(F.col("kind") == kind), [whole])
    return np.array(row["vector"], np.float32), float(row["norm"])


def _titles(opened: indexes.Opened, space: made.Space, latent: NDArray[np.float32], prefix: str, n: int) -> list[Hit]:
    """Return different titles with their cosines, the nearest first."""
    beside = space.config.output.metadata or files.metadata_of(opened.name)
    if not tables.exists(opened.spark, beside):
        raise ConfigError(f"{beside}: the table of titles is gone; run 'embedall latent' again")
    titled = metadata.read(opened.spark, beside, "id").where("title IS NOT NULL").select("id", "title")
    begun = F.startswith(F.lower("title"), F.lower(F.lit(prefix.strip()))) if prefix.strip() else F.lit(True)
    rows = opened.vectors.where(F.col("kind") == space.model.right_kind)
    rows = rows.join(titled.where(begun), "id", "left_semi")
    [hits] = exact.top_k(rows, latent[None], n * _REACH)
    called = metadata.of(titled, [name for name, _ in hits], ["title"])
    best: dict[str, float] = {}
    for name, score in hits:
        best.setdefault(called[name]["title"], score)
    return list(best.items())[:n]


def _goes_on(model: LatentModel, prefix: str, word: str) -> bool:
    """Tell whether a word may come next in a title that is begun: its last word may be half a word still."""
    begun = model.words(prefix) if prefix.strip() else []
    assert model.text is not None
    last = prefix.split()[-1].lower() if prefix.strip() and not prefix[-1].isspace() else ""
    if last and last not in model.text.bags.tokens:
        return word.startswith(last)
    return word not in begun
