"""Files that TensorBoard's embedding projector reads: vectors, what is known of them, a sheet of small pictures."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark import files
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.images import thumbnails
from embedall_spark.search import exact, spelling
from embedall_spark.sources import expressions
from embedall_spark.sources.image_limits import Limits
from embedall_spark.visualize import projector_format, sprites

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from numpy.typing import NDArray
    from PIL import Image
    from pyspark.sql import Column, DataFrame

    from embedall_spark.visualize.projector_format import Key

log = logging.getLogger(__name__)

CONFIG = "projector_config.pbtxt"
MAX_ROWS = 50_000  # the projector reads 100,000; its PCA and t-SNE look at fewer
MAX_BYTES = 256 << 20
MAX_COLUMNS = 30
_MAX_KINDS = 20
_NAMED = 5  # ids that are not in the table, in a warning


class Tensor(NamedTuple):
    """One space of points in the projector."""

    name: str
    rows: int
    vector_size: int
    tile: int  # edge of a picture in the sheet, in pixels; 0: there is no sheet
    files: dict[str, bytes]  # by their names
    entry: str  # its part of the configuration


def write(
    folder: str,
    vectors: DataFrame,
    n: int = 10_000,
    *,
    known: DataFrame | None = None,
    pictures: DataFrame | None = None,
    limits: Limits | None = None,
) -> Tensor:
    """Write the projector's files of one table into a folder, as tensor() makes them.

    Args:
        folder: a path or URI; TensorBoard's --logdir.
        vectors: VECTORS.
        n: how many rows.
        known: as for tensor().
        pictures: IMAGES.
        limits: of the pictures that are decoded.

    Raises:
        BadData, ConfigError: as tensor().
    """
    made = tensor(vectors, n, known=known, pictures=pictures, limits=limits)
    for name, content in contents([made]):
        files.write_bytes(f"{folder.rstrip('/')}/{name}", content)
    return made


def contents(tensors: Iterable[Tensor]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the files of several tensors, one folder's, the configuration last.

    A tensor's files are let go before the next one is made, where ``tensors`` makes them as they are asked for.
    """
    entries = []
    for made in tensors:
        yield from made.files.items()
        entries.append(made.entry)
    yield CONFIG, "".join(entries).encode()


def tensor(
    vectors: DataFrame,
    n: int = 10_000,
    *,
    name: str = "vectors",
    ids: Collection[str] | None = None,
    known: DataFrame | None = None,
    pictures: DataFrame | None = None,
    limits: Limits | None = None,
) -> Tensor:
    """Return the projector's files of the most frequent ids of a table.

    Ids without a count come last, in an order that a hash gives, so that of things that are not counted, such as
    pictures, it is a sample. Several kinds in one table have equal shares, as far as each has as many. The same
    table gives the same files, however it is partitioned. Vectors are written as they are.

    The projector shows the first column of the metadata that is not of numbers: the title, where any id has one (else
    the id stands in its place), or the id. ``count`` and ``kind`` are there where they tell ids apart.

    Args:
        vectors: VECTORS.
        n: how many rows.
        name: what the projector calls it; what is no letter or digit becomes "_".
        ids: these ids only; ``n`` still limits them.
        known: id and further columns, which become columns of the metadata, several values of an id with "|" between
            them; columns of other types than simple ones or arrays of text are left out.
        pictures: IMAGES; an id that has none is shown by its text.
        limits: of the pictures that are decoded.

    Raises:
        BadData: the table has no row, or a vector that is not finite.
        ConfigError: more than MAX_ROWS, MAX_BYTES, MAX_COLUMNS or 20 kinds are asked for.
        UnknownId: none of ``ids`` is in the table.
    """
    if not 1 <= n <= MAX_ROWS:
        raise ConfigError(f"-n {n:,}: need 1 to {MAX_ROWS:,}, which is what the projector can be used with")
    name = projector_format.name(name)
    chosen = _choose(vectors, n, ids)
    counts, matrix = _fetch(vectors, chosen)
    names = [identity for _, identity in chosen]
    columns = projector_format.columns(chosen, counts, _known(known, names) if known is not None else {})
    ending, numbers = projector_format.numbers(matrix)
    made = {f"{name}.{ending}": numbers, f"{name}_metadata.tsv": projector_format.table(columns)}
    edge = 0
    if pictures is not None:
        edge = sprites.tile(len(names))
        small = _small(pictures, names, limits or Limits(), edge)
        made[f"{name}_sprites.jpg"] = sprites.sheet(names, small, next(iter(columns.values())))
    entry = projector_format.entry(name, matrix.shape, list(made), edge)
    return Tensor(name, len(matrix), matrix.shape[1], edge, made, entry)


def _choose(vectors: DataFrame, n: int, ids: Collection[str] | None) -> list[Key]:
    """Return kind and id of the rows that are shown, in the order in which they are shown."""
    keys = vectors.select("id", "kind", "count")
    if ids is not None:
        names = vectors.sparkSession.createDataFrame(pa.table({"id": pa.array(sorted(set(ids)), pa.string())}))
        keys = keys.join(names, "id", "left_semi")
    kinds = keys.select("kind").distinct().limit(_MAX_KINDS + 1).toArrow()["kind"].to_pylist()
    if len(kinds) > _MAX_KINDS:
        raise ConfigError(f"the table has over {_MAX_KINDS} kinds, which share the points; choose rows by their ids")
    order = [F.desc_nulls_last("count"), F.xxhash64("id"), F.col("id")]
    ranked: list[tuple[int, str, str]] = []
    for kind in kinds:
        first = keys.where(F.col("kind") == kind).orderBy(*order).limit(n).select("id").toArrow()
        ranked += [(rank, kind, identity) for rank, identity in enumerate(first["id"].to_pylist())]
    chosen = list(dict.fromkeys((kind, identity) for _, kind, identity in sorted(ranked)[:n]))
    if ids is not None:
        found = {identity for *_, identity in ranked}
        if missing := [identity for identity in dict.fromkeys(ids) if identity not in found]:
            if not found:
                raise spelling.unknown(vectors, missing[:_NAMED])
            log.warning("%d ids are not in the table: %s ...", len(missing), ", ".join(missing[:_NAMED]))
    if not chosen:
        raise BadData("the table has no row to show")
    return chosen


def _fetch(vectors: DataFrame, chosen: Sequence[Key]) -> tuple[list[int | None], NDArray[np.float32]]:
    """Return counts and vectors, float32 [n, d], of the chosen rows."""
    size = (vectors.select(F.size("vector")).first() or [0])[0]
    if 4 * size * len(chosen) > MAX_BYTES:
        most = MAX_BYTES // (4 * size)
        raise ConfigError(
            f"{len(chosen):,} vectors of {size:,} numbers are over {MAX_BYTES >> 20} MiB, which a browser does not "
            f"bear; give -n {most} or less"
        )
    kinds, ids = zip(*chosen, strict=True)
    keys = vectors.sparkSession.createDataFrame(pa.table({"kind": pa.array(kinds), "id": pa.array(ids)}))
    found = vectors.join(keys, ["kind", "id"], "left_semi").select("kind", "id", "count", "vector").toArrow()
    at = {key: row for row, key in enumerate(zip(found["kind"].to_pylist(), found["id"].to_pylist(), strict=True))}
    found = found.take([at[key] for key in chosen]).combine_chunks()
    matrix = exact.to_matrix(found["vector"].combine_chunks())
    if not np.isfinite(matrix).all():
        bad = chosen[int(np.argmin(np.isfinite(matrix).all(axis=1)))][1]
        raise BadData(f"the vector of {bad!r} is not finite, of which the projector shows nothing; remove the row")
    return found["count"].to_pylist(), matrix


def as_text(known: DataFrame) -> DataFrame:
    """Return id and the columns that can be shown, as text: simple ones, and arrays of text with commas between."""
    texts = {field.name: _text(field) for field in known.schema if field.name != "id"}
    return known.select("id", *[text.alias(name) for name, text in texts.items() if text is not None])


def _known(known: DataFrame, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return, for each column of a table but the id, what it says of the ids."""
    known = as_text(known)
    shown = [name for name in known.columns if name != "id"]
    if len(shown) > MAX_COLUMNS:
        raise ConfigError(f"{len(shown)} columns of metadata, at most {MAX_COLUMNS} are shown; name those to show")
    if not shown:
        return {}
    names = known.sparkSession.createDataFrame(pa.table({"id": pa.array(sorted(set(ids)), pa.string())}))
    values = [
        F.left(
            F.array_join(F.array_sort(F.collect_set(expressions.column(name))), "|"),
            F.lit(projector_format.LONGEST + 1),
        )
        for name in shown
    ]
    aliased = [value.alias(f"c{at}") for at, value in enumerate(values)]
    found = known.join(names, "id", "left_semi").groupBy("id").agg(*aliased).toArrow()
    rows = found["id"].to_pylist()
    return {name: dict(zip(rows, found[f"c{at}"].to_pylist(), strict=True)) for at, name in enumerate(shown)}


def _text(field: T.StructField) -> Column | None:
    """Return a column as text; None where it is of no type that can be shown."""
    value = expressions.column(field.name)
    if isinstance(field.dataType, T.ArrayType) and isinstance(field.dataType.elementType, T.StringType):
        return F.array_join(value, ", ")
    if isinstance(field.dataType, (T.ArrayType, T.MapType, T.StructType, T.BinaryType, T.VariantType)):
        return None
    return value.cast("string")


def _small(pictures: DataFrame, ids: Sequence[str], limits: Limits, edge: int) -> dict[str, Image.Image]:
    """Return the pictures of those ids that have one."""
    names, step = list(dict.fromkeys(ids)), thumbnails.MAX_IDS
    found: dict[str, Image.Image] = {}
    for start in range(0, len(names), step):
        found |= thumbnails.thumbnails_by_id(pictures, names[start : start + step], limits, edge)
    if missing := len(names) - len(found):
        log.info("%d of %d points have no picture; their text is shown", missing, len(names))
    return found
