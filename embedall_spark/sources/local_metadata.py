"""Metadata of ids as Arrow tables, read without Spark: what sources.metadata reads, where that is certain to agree."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedall_spark import files
from embedall_spark.errors import NeedsSpark
from embedall_spark.sources import metadata
from embedall_spark.vectors import row_array, text_array

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from embedall_spark.sources.metadata import Metadata

_MAX_BYTES = 256 << 20  # of a file
_MAX_LINE = 100_000  # characters


def read_all(config: Metadata, delta: Callable[[str], pa.Table], columns: Iterable[str] = ()) -> pa.Table:
    """Return what metadata.read_all() does.

    Args:
        config: where the metadata are, with a path.
        delta: returns a Delta table.
        columns: further column names by which a header is recognized.

    Raises:
        NeedsSpark: they cannot be read here, or Spark might read them otherwise.
    """
    path = config.path or ""
    kind, separator = metadata.format_of(path)
    if kind == "delta":
        rows = delta(path)
    elif kind == "csv":
        wanted = {config.id, config.label or "id", config.title or "id", "id", "label", "title", *columns}
        header = metadata.read_header(path, separator, wanted)
        rows = _read_csv(path, separator, header.names() if header.absent else [])
    elif kind == "parquet":
        try:
            rows = pq.read_table(io.BytesIO(_content(path)))
        except (OSError, pa.ArrowException) as error:
            raise NeedsSpark(f"{path}: {error}") from None
    else:
        raise NeedsSpark(f"{path}: JSON is read by Spark")
    if rows.column_names.count(config.id) != 1:
        raise NeedsSpark(f"{path}: there is not one column {config.id}")
    if config.id != "id":
        names = ["id" if name == config.id else name for name in rows.column_names if name != "id"]
        rows = rows.select([name for name in rows.column_names if name != "id"]).rename_columns(names)
    place = rows.column_names.index("id")
    return rows.set_column(place, "id", text(rows["id"]))


def read(config: Metadata, delta: Callable[[str], pa.Table], ids: pa.ChunkedArray) -> pa.Table:
    """Return id, label and title as metadata.read() does; an id may be there twice with one label.

    Args:
        config: where they come from.
        delta: returns a Delta table.
        ids: of the table of vectors, for labels that are parts of them.

    Raises:
        NeedsSpark: they cannot be read here, or a column is missing, which Spark explains.
    """
    if config.prefix is not None:
        first = [text.partition(config.prefix)[0] or None for text in ids.to_pylist()]
        return pa.table({"id": ids, "label": pa.array(first, pa.string()), "title": pa.nulls(len(ids), pa.string())})
    rows = read_all(config, delta)
    columns = {"label": config.label, "title": config.title}
    if any(column is not None and column not in rows.column_names for column in columns.values()):
        raise NeedsSpark("a column of the labels or titles is missing")
    texts = {
        name: pa.nulls(len(rows), pa.string()) if column is None else text(rows[column])
        for name, column in columns.items()
    }
    table = pa.table({"id": rows["id"], **texts}).filter(pc.is_valid(rows["id"]))
    if config.split is not None:
        parts = [None if label is None else label.split(config.split) for label in table["label"].to_pylist()]
        repeated = np.repeat(np.arange(len(table)), [1 if part is None else len(part) for part in parts])
        labels = pa.array([label for part in parts for label in (part or [None])], pa.string())
        table = table.take(row_array(repeated)).set_column(1, "label", labels)
    return pa.table({"id": table["id"], "label": _filled(table["label"]), "title": _filled(table["title"])})


def titles(rows: pa.Table, column: str) -> pa.Table:
    """Return id and title as metadata.read() does: without blanks around them, and without empty ones.

    Args:
        rows: as read_all() returns them.
        column: the column of titles.

    Raises:
        NeedsSpark: there is no such column, or it is not of text.
    """
    if column not in rows.column_names:
        raise NeedsSpark(f"there is no column {column}")
    return pa.table({"id": rows["id"], "title": _filled(text(rows[column]))}).filter(pc.is_valid(rows["id"]))


def text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as Spark casts it to text; raises NeedsSpark for types that it writes in ways of its own."""
    kind = column.type
    if pa.types.is_string(kind):
        return column
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return column.cast(pa.string())
    if pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        return pa.chunked_array([pa.array(map(_list_text, column.to_pylist()), pa.string())])
    raise NeedsSpark(f"only Spark writes values of type {kind} as text")


def metadata_by_id(rows: pa.Table, ids: Collection[str], columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return what metadata.metadata_by_id() does; ``rows`` as read_all() returns them."""
    if not columns:
        return {}
    wanted = rows.filter(pc.is_in(rows["id"], value_set=text_array(set(ids))))
    values: dict[str, dict[str, str]] = {name: {} for name in wanted["id"].to_pylist()}
    for column in columns:
        texts = text(wanted[column]).to_pylist()
        for name, value in zip(wanted["id"].to_pylist(), texts, strict=True):
            if value is not None:
                values[name][column] = min(value, values[name].get(column, value))
    return values


def _filled(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return texts without blanks around them; null in place of empty ones."""
    trimmed = pc.utf8_trim(texts, characters=" ")
    return pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed)


def _list_text(value: list[str | None] | None) -> str | None:
    return None if value is None else f"[{', '.join('null' if part is None else part for part in value)}]"


def _content(path: str) -> bytes:
    """Return a file of moderate size."""
    try:
        filesystem, inside = files.resolve(path)
        size = filesystem.get_file_info(inside).size
        if size is None or size > _MAX_BYTES or not path.endswith((".csv", ".tsv", ".parquet")):
            raise NeedsSpark(f"{path}: is large, compressed or a folder, which Spark reads")
        return files.read_bytes(path)
    except OSError as error:
        raise NeedsSpark(f"{path}: {error}") from None


def _read_csv(path: str, separator: str, header: list[str]) -> pa.Table:
    """Return the columns of a file in which every line is a row beyond doubt, as text."""
    try:
        lines = [line.removesuffix("\r") for line in _content(path).decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError:
        raise NeedsSpark(f"{path}: is not in UTF-8") from None
    rows = [_fields(line, separator, path) for line in lines if line.strip(" ")]
    names = header or (rows.pop(0) if rows else [])
    if not names or len({*names}) < len(names) or "" in names or any(len(row) != len(names) for row in rows):
        raise NeedsSpark(f"{path}: some of its lines are not rows like the others")
    if names in rows or "problem" in names:
        raise NeedsSpark(f"{path}: names of columns are repeated")
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    return pa.table([pa.array([value or None for value in column], pa.string()) for column in columns], names)


def _fields(line: str, separator: str, path: str) -> list[str]:
    if len(line) > _MAX_LINE or "\r" in line or "\0" in line:
        raise NeedsSpark(f"{path}: has lines that Spark must split")
    if '"' not in line:
        fields = line.split(separator)
    else:
        fields = next(csv.reader([line], delimiter=separator))
        again = io.StringIO()
        csv.writer(again, delimiter=separator, lineterminator="").writerow(fields)
        # Quotes elsewhere than around a value are read in several ways.
        if again.getvalue() != line:
            raise NeedsSpark(f"{path}: has quotes that Spark must read")
    if any(value != value.strip() for value in fields):
        raise NeedsSpark(f"{path}: has blanks around values, which Spark must read")
    return fields
