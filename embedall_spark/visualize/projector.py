"""Files for TensorBoard's embedding projector: vectors, their metadata, a sheet of small pictures."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark import randomness
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.images import thumbnails
from embedall_spark.schemas import from_arrow
from embedall_spark.search import spelling
from embedall_spark.search.local_table import LocalTable
from embedall_spark.sources import expressions, local_metadata
from embedall_spark.sources.image_limits import Limits
from embedall_spark.vectors import dimension, text_array, to_matrix
from embedall_spark.visualize import projector_format, sprites

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from PIL import Image
    from pyspark.sql import Column

    from embedall_spark.search.local_table import Vectors
    from embedall_spark.visualize.projector_format import Key

log = logging.getLogger(__name__)

CONFIG = "projector_config.pbtxt"
MAX_ROWS = 50_000  # the projector reads 100,000; its PCA and t-SNE use fewer
MAX_BYTES = 256 << 20
MAX_COLUMNS = 30
_MAX_KINDS = 20
_MAX_NAMED = 5  # unknown ids, in a warning


class Tensor(NamedTuple):
    """One space of points in the projector."""

    name: str
    rows: int
    vector_size: int
    tile: int  # edge of a picture in the sheet, in pixels; 0: there is no sheet
    files: dict[str, bytes]  # contents by name
    entry: str  # its part of the configuration


def contents(tensors: Iterable[Tensor]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file of several tensors for one folder, the configuration last.

    If ``tensors`` is a generator, only one tensor's files are in memory at a time.
    """
    entries = []
    for part in tensors:
        yield from part.files.items()
        entries.append(part.entry)
    yield CONFIG, "".join(entries).encode()


def tensor(
    vectors: Vectors,
    n: int = 10_000,
    *,
    name: str = "vectors",
    ids: Collection[str] | None = None,
    metadata: DataFrame | pa.Table | None = None,
    pictures: DataFrame | Mapping[str, str] | None = None,
    limits: Limits | None = None,
) -> Tensor:
    """Return the projector's files for the most frequent ids of a table.

    Ids without a count come last, in an order given by a hash, so that uncounted things, such as pictures, are a
    sample. Several kinds in one table have equal shares, as far as each has that many rows. The same table gives the
    same files, however it is partitioned. Vectors are written as they are.

    The projector shows the first column of the metadata that is not numeric: the title, if any id has one (an id
    without a title is its own title), or the id. ``count`` and ``kind`` are left out where they do not differ.

    Args:
        vectors: VECTORS, in Spark or on the driver.
        n: how many rows.
        name: of the tensor in the projector; characters other than letters and digits become "_".
        ids: these ids only; ``n`` still limits them.
        metadata: id and further columns to show, several values of an id with "|" between them; columns of other types
            than simple ones or arrays of text are left out.
        pictures: IMAGES, or paths in this machine's files by id; an id without a picture is shown as text.
        limits: which pictures are too large to be decoded.

    Raises:
        BadData: the table has no row, or a vector that is not finite.
        ConfigError: more than MAX_ROWS, MAX_BYTES, MAX_COLUMNS or 20 kinds.
        UnknownId: none of ``ids`` is in the table.
    """
    if not 1 <= n <= MAX_ROWS:
        raise ConfigError(f"-n {n:,}: need 1 to {MAX_ROWS:,}; a browser shows no more points usably")
    name = projector_format.name(name)
    keys = _top_keys(vectors, n, ids)
    counts, matrix = _fetch(vectors, keys)
    names = [identity for _, identity in keys]
    columns = projector_format.columns(keys, counts, _metadata(metadata, names) if metadata is not None else {})
    suffix, content = projector_format.vector_file(matrix)
    contents = {f"{name}.{suffix}": content, f"{name}_metadata.tsv": projector_format.table(columns)}
    edge = 0
    if pictures is not None:
        edge = sprites.tile(len(names))
        small = _thumbnails(pictures, names, limits or Limits(), edge)
        contents[f"{name}_sprites.jpg"] = sprites.sheet(names, small, next(iter(columns.values())))
    entry = projector_format.entry(name, matrix.shape, list(contents), edge)
    return Tensor(name, len(matrix), matrix.shape[1], edge, contents, entry)


def _top_keys(vectors: Vectors, n: int, ids: Collection[str] | None) -> list[Key]:
    """Return kind and id of the rows to show, in their order."""
    of_kind = _ids_here(vectors, n, ids) if isinstance(vectors, LocalTable) else _ids_in_spark(vectors, n, ids)
    ranked = [(rank, kind, identity) for kind, first in of_kind.items() for rank, identity in enumerate(first)]
    keys_shown = list(dict.fromkeys((kind, identity) for _, kind, identity in sorted(ranked)[:n]))
    if ids is not None:
        present = {identity for *_, identity in ranked}
        if missing := [identity for identity in dict.fromkeys(ids) if identity not in present]:
            if not present:
                raise spelling.unknown(vectors, missing[:_MAX_NAMED])
            log.warning("%d ids are not in the table: %s ...", len(missing), ", ".join(missing[:_MAX_NAMED]))
    if not keys_shown:
        raise BadData("the table has no rows to show")
    return keys_shown


def _ids_in_spark(vectors: DataFrame, n: int, ids: Collection[str] | None) -> dict[str, list[str]]:
    """Return the first ids of each kind."""
    keys = vectors.select("id", "kind", "count")
    if ids is not None:
        names = from_arrow(vectors.sparkSession, pa.table({"id": pa.array(sorted(set(ids)), pa.string())}))
        keys = keys.join(names, "id", "left_semi")
    kinds = keys.select("kind").distinct().limit(_MAX_KINDS + 1).toArrow()["kind"].to_pylist()
    _check_kinds(kinds)
    order = [F.desc_nulls_last("count"), F.xxhash64("id"), F.col("id")]
    return {
        kind: keys.where(F.col("kind") == kind).orderBy(*order).limit(n).select("id").toArrow()["id"].to_pylist()
        for kind in kinds
    }


def _ids_here(vectors: LocalTable, n: int, ids: Collection[str] | None) -> dict[str, list[str]]:
    """Return the same of a table on the driver."""
    rows = vectors if ids is None else vectors.where(pc.is_in(vectors.ids, value_set=text_array(set(ids))))
    kinds = rows.column("kind").unique().to_pylist()
    _check_kinds(kinds)
    first = {}
    for kind in kinds:
        part = rows.of_kind(kind)
        names, counts = part.ids.to_pylist(), part.column("count").fill_null(-1).to_numpy()
        # Rows are in the order of their ids.
        order = np.lexsort((randomness.spark_hashes(names), -counts))[:n]
        first[kind] = [names[row] for row in order]
    return first


def _check_kinds(kinds: Sequence[str]) -> None:
    if len(kinds) > _MAX_KINDS:
        raise ConfigError(f"the table has over {_MAX_KINDS} kinds, too many to share the points; choose rows by --id")


def _fetch(vectors: Vectors, keys: Sequence[Key]) -> tuple[list[int | None], NDArray[np.float32]]:
    """Return counts and vectors, float32 [n, d], of the rows with these keys."""
    size = vectors.dimension if isinstance(vectors, LocalTable) else dimension(vectors) or 0
    if 4 * size * len(keys) > MAX_BYTES:
        raise ConfigError(
            f"{len(keys):,} vectors of {size:,} dimensions are over {MAX_BYTES >> 20} MiB, too much for a browser; "
            f"give -n {MAX_BYTES // (4 * size)} or less"
        )
    kinds, ids = zip(*keys, strict=True)
    if isinstance(vectors, LocalTable):
        place_of = dict(zip(vectors.ids.to_pylist(), range(len(vectors)), strict=True))
        part = vectors.take(np.array([place_of[name] for name in ids]))
        counts, matrix = part.column("count").to_pylist(), part.vectors[part.rows]
    else:
        wanted = from_arrow(vectors.sparkSession, pa.table({"kind": pa.array(kinds), "id": pa.array(ids)}))
        rows = vectors.join(wanted, ["kind", "id"], "left_semi").select("kind", "id", "count", "vector").toArrow()
        pairs = zip(rows["kind"].to_pylist(), rows["id"].to_pylist(), strict=True)
        places = {key: row for row, key in enumerate(pairs)}
        rows = rows.take([places[key] for key in keys])
        counts, matrix = rows["count"].to_pylist(), to_matrix(rows["vector"])
    if not np.isfinite(matrix).all():
        bad = keys[int(np.argmin(np.isfinite(matrix).all(axis=1)))][1]
        raise BadData(f"the vector of {bad!r} is not finite; with it the projector shows nothing, so remove the row")
    return counts, matrix


def as_text(metadata: DataFrame) -> DataFrame:
    """Return id and the columns that can be shown, as text: simple ones, and arrays of text with commas between."""
    texts = {field.name: _text(field) for field in metadata.schema if field.name != "id"}
    return metadata.select("id", *[text.alias(name) for name, text in texts.items() if text is not None])


def as_text_here(metadata: pa.Table) -> pa.Table:
    """Return the same of metadata on the driver; raises NeedsSpark for types that Spark writes in ways of its own."""
    texts = {"id": metadata["id"]}
    for field in metadata.schema:
        if pa.types.is_list(field.type) and pa.types.is_string(field.type.value_type):
            lists = metadata[field.name].to_pylist()
            joined = [None if part is None else ", ".join(text for text in part if text is not None) for part in lists]
            texts[field.name] = pa.chunked_array([pa.array(joined, pa.string())])
        elif field.name != "id" and not pa.types.is_nested(field.type) and not pa.types.is_binary(field.type):
            texts[field.name] = local_metadata.text(metadata[field.name])
    return pa.table(texts)


def _metadata(metadata: DataFrame | pa.Table, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the values by id, by the name of their column."""
    metadata = as_text_here(metadata) if isinstance(metadata, pa.Table) else as_text(metadata)
    columns = metadata.column_names if isinstance(metadata, pa.Table) else metadata.columns
    shown = [name for name in columns if name != "id"]
    if len(shown) > MAX_COLUMNS:
        raise ConfigError(f"{len(shown)} columns of metadata, at most {MAX_COLUMNS} can be shown; choose with --show")
    if not shown:
        return {}
    if isinstance(metadata, pa.Table):
        return {name: _joined(metadata, name, set(ids)) for name in shown}
    names = from_arrow(metadata.sparkSession, pa.table({"id": pa.array(sorted(set(ids)), pa.string())}))
    limit = F.lit(projector_format.MAX_LETTERS + 1)
    values = [
        F.left(F.array_join(F.array_sort(F.collect_set(expressions.column(name))), "|"), limit).alias(f"c{index}")
        for index, name in enumerate(shown)
    ]
    table = metadata.join(names, "id", "left_semi").groupBy("id").agg(*values).toArrow()
    rows = table["id"].to_pylist()
    return {name: dict(zip(rows, table[f"c{index}"].to_pylist(), strict=True)) for index, name in enumerate(shown)}


def _joined(metadata: pa.Table, column: str, ids: set[str]) -> dict[str, str]:
    """Return the values of a column by id, several of one id with "|" between them."""
    values: dict[str, set[str]] = {}
    for name, value in zip(metadata["id"].to_pylist(), metadata[column].to_pylist(), strict=True):
        if name in ids:
            values.setdefault(name, set()).update([] if value is None else [value])
    return {name: "|".join(sorted(each))[: projector_format.MAX_LETTERS + 1] for name, each in values.items()}


def _text(field: T.StructField) -> Column | None:
    """Return a column as text; None where its type cannot be shown."""
    value = expressions.column(field.name)
    if isinstance(field.dataType, T.ArrayType) and isinstance(field.dataType.elementType, T.StringType):
        return F.array_join(value, ", ")
    if isinstance(field.dataType, (T.ArrayType, T.MapType, T.StructType, T.BinaryType, T.VariantType)):
        return None
    return value.cast("string")


def _thumbnails(
    pictures: DataFrame | Mapping[str, str], ids: Sequence[str], limits: Limits, edge: int
) -> dict[str, Image.Image]:
    """Return the pictures of those ids that have one."""
    names, step = list(dict.fromkeys(ids)), thumbnails.MAX_IDS
    small: dict[str, Image.Image] = {}
    for start in range(0, len(names), step):
        part = names[start : start + step]
        if isinstance(pictures, DataFrame):
            small |= thumbnails.thumbnails_by_id(pictures, part, limits, edge)
        else:
            small |= thumbnails.thumbnails_of_files(pictures, part, limits, edge)
    if missing := len(names) - len(small):
        log.info("%d of %d points have no picture and are shown as text", missing, len(names))
    return small
