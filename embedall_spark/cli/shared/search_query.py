"""What one search asks for: the options of the command line, and the query vector that comes of them."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from tokenize import TokenError
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from embedall_spark import files
from embedall_spark.cli.shared import ngrams_table, provenance
from embedall_spark.errors import ConfigError
from embedall_spark.search import exact, title_lookup

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedall_spark.cli.shared.provenance import LatentTable
    from embedall_spark.cli.shared.table_snapshot import TableSnapshot
    from embedall_spark.search.title_lookup import Titles


@dataclass(frozen=True)
class SearchOptions:
    """What to search by (exactly one of several options), and how, from the command line."""

    image: str | None
    id: str | None
    vector: str | None
    text: str | None
    queries: str | None
    output: str | None
    n: int
    where: str | None
    with_self: bool
    approximate: bool
    index: str | None
    rebuild: bool
    csls: int | None
    work: str | None

    @property
    def measure(self) -> str:
        """What scores are."""
        return "cosine" if self.csls is None else f"CSLS over {self.csls} neighbors"

    def check(self, draws: bool) -> None:
        """Raise ConfigError for options that contradict each other; ``draws``: a page or a montage is to be written."""
        sources = ("image", "id", "vector", "text", "queries")
        if sum(getattr(self, name) is not None for name in sources) != 1:
            raise ConfigError(f"give one of {', '.join(f'--{name}' for name in sources)}")
        if empty := [name for name in sources if not (getattr(self, name) or "x").strip()]:
            raise ConfigError(f"--{empty[0]}: is empty; give what to search by")
        if (self.queries is None) != (self.output is None):
            raise ConfigError("--queries and --output go together: a table of queries, and the table to write")
        if self.queries is not None and draws:
            raise ConfigError(
                "--html and --montage show one search; give --id, --image, --text or --vector in place of --queries"
            )
        if self.csls is not None and self.approximate:
            raise ConfigError("--csls needs an exact search, an index is by cosine: leave --csls or --approximate out")


class Query(NamedTuple):
    """A query vector and where it comes from."""

    text: str
    """What a result calls it."""
    vector: NDArray[np.float32]
    """float32 [d]"""
    id: str | None = None
    """The row that it is the vector of, if it is."""
    image: str | None = None
    """The picture's file that it is the vector of, if it is."""


def resolve(
    snapshot: TableSnapshot, options: SearchOptions, latent: LatentTable | None, titles: Titles | None
) -> Query:
    """Return the query of a search by an id, a title, a picture or a text.

    Args:
        snapshot: the table.
        options: what to search by; not by a vector or a table.
        latent: how a latent table was made; None: the table is not a latent one.
        titles: id and title, if the table has titles.

    Raises:
        UnknownId: the id, or every word of the text, is unknown.
        ConfigError: the table cannot be searched by a picture or a text.
        BadData: the row's vector has no direction, or the picture cannot be used.
    """
    if options.id is not None:
        resolved = title_lookup.resolve(snapshot.vectors, titles, [options.id])
        resolved = ngrams_table.add_unseen(snapshot, resolved)
        if resolved.missing:
            raise title_lookup.unknown(snapshot.vectors, titles, resolved)
        exact.require_directions(resolved.vectors)
        [name] = resolved.ids.values()
        return Query(name, resolved.vectors[name], id=name)
    if options.image is not None:
        name = os.path.basename(options.image)
        if latent is None:
            vector = provenance.embed_image(snapshot.session, snapshot.name, options.image)
        else:
            vector, _ = provenance.project_image(snapshot.session, latent, options.image)
        return Query(name, vector, image=options.image)
    text = options.text or ""
    if latent is None:
        network = provenance.text_network(snapshot.session, snapshot.name)
        if network is None:
            raise ConfigError(
                f"--text: {snapshot.name} was made neither by 'embedall latent' nor by a network with a text side; "
                "give --id, --vector or --image"
            )
        return Query(text, provenance.embed_text(network, text))
    return Query(text, provenance.project_text(snapshot.session, latent, text))


def read_vector(path: str) -> Query:
    """Return the vector in a file: .npy, or numbers as JSON, or with spaces, commas or lines between them.

    Raises:
        ConfigError: it cannot be read, or does not hold exactly one vector of finite numbers, not all of them 0.
    """
    try:
        content = files.read_bytes(path)
        if content.startswith(b"\x93NUMPY"):
            values = np.load(io.BytesIO(content), allow_pickle=False)
        else:
            text = content.decode("utf-8-sig").strip()
            values = np.array(json.loads(text) if text.startswith("[") else text.replace(",", " ").split())
        vector = np.atleast_1d(np.squeeze(values.astype(np.float32)))
    except (OSError, ValueError, TypeError, MemoryError, OverflowError, SyntaxError, TokenError) as error:
        raise ConfigError(f"--vector {path}: cannot be read as a vector: {error}") from None
    if vector.ndim != 1 or not vector.size or not np.isfinite(vector).all():
        raise ConfigError(f"--vector {path}: found an array {values.shape}, need one vector of finite numbers")
    if not exact.has_direction(vector):
        raise ConfigError(f"--vector {path}: all values are 0, so that no row is nearer than another; give another one")
    return Query(os.path.basename(path), vector)


def kind_for_csls(
    snapshot: TableSnapshot, options: SearchOptions, query: Query, latent: LatentTable | None
) -> str | None:
    """Return the kind of the rows that represent the queries' side in CSLS; None: all rows.

    In a latent table these are the rows of the query's kind: titles for words, the left kind for a picture, a row's own
    kind for an id. The kind of a vector in a file is unknown, and other tables have one kind only.
    """
    if latent is None:
        return None
    if query.id is not None:
        return exact.kind_of(snapshot.vectors, query.id)
    if query.image is not None:
        return latent.model.left_kind
    return latent.model.right_kind if options.text is not None else None
