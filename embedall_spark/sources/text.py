"""Text files and tables to DOCUMENTS; what cannot be read becomes a row that says why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator
from pyspark.errors import AnalysisException
from pyspark.sql import functions as F

from embedall_spark.config import MOVABLE, InputPath, Section
from embedall_spark.errors import BadData, SchemaMismatch
from embedall_spark.schemas import DOCUMENTS, conform
from embedall_spark.sources import (
    csv_files,
    expressions,
    file_lines,
    ids,
    input_version,
    line_reader,
    python_docstrings,
    tabular,
    text_streams,
)
from embedall_spark.sources.text_documents import TextDocuments
from embedall_spark.sources.text_streams import Encoding

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

    from embedall_spark.sources.input_version import Storage

_LIMIT = "input.max_document_bytes"


class TextConfig(Section):
    """Where documents come from."""

    path: InputPath = Field(description=csv_files.PATH)
    format: Literal["text", "json", "csv", "parquet", "delta", "docstrings"] = Field(
        "text",
        description="text: text files; json: JSON Lines; csv; parquet; delta: a path or a table; "
        "docstrings: the docstrings of every .py file below the folder",
    )
    per: Literal["line", "file"] = Field(
        "line", description="with format: text, what a document is (a file of 0 bytes is none)"
    )
    column: str = Field("text", description="the column (in JSON Lines the key) that holds the text")
    id_column: str | None = Field(
        None,
        description="the column of the documents' ids, integers as they are and others hashed; else text is hashed",
    )
    encoding: Encoding = Field("utf-8", description=text_streams.ENCODING)
    separator: str = Field(",", min_length=1, max_length=1, description=csv_files.SEPARATOR)
    header: bool = Field(True, description=csv_files.HEADER)
    multi_line: bool = Field(
        True,
        description="with format: csv, quoted text may hold line breaks; false where none does: big files are then "
        "read by several tasks",
    )
    max_document_bytes: int = Field(
        1 << 24,
        ge=1,
        le=1 << 28,
        description="with format: text, longer documents are read in pieces of at most so many bytes, cut at white "
        "space; in other formats they are rejected (JSON Lines: at most 16 MiB a line)",
    )
    incremental: bool = Field(
        False,
        description=f"{input_version.INCREMENTAL}, for which id_column must tell documents apart",
        json_schema_extra=MOVABLE,
    )
    deleted: InputPath | None = Field(
        None, description="Delta table whose id_column names documents to leave out, whenever they were read"
    )

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        if self.per == "file" and self.format != "text":
            raise ValueError(f"per: file goes with format: text only, found format: {self.format}")
        if self.id_column is not None and self.format in ("text", "docstrings"):
            raise ValueError(f"id_column: format {self.format} has no columns; remove it, found {self.id_column!r}")
        input_version.check_incremental(self.incremental, self.format)
        if self.id_column is None and (self.deleted is not None or (self.incremental and self.format == "delta")):
            raise ValueError(
                "deleted, and incremental with format delta, need id_column: by it a deleted document is found"
            )
        return self

    @property
    def storage(self) -> Storage:
        """How the input is stored."""
        return input_version.storage_of(self.path, self.format)


def read(spark: SparkSession, config: TextConfig) -> DataFrame:
    """Return DOCUMENTS, lazily, one row per document or unreadable record.

    Ids are those of ``id_column``, or the xxhash64 of the text: the same however the input is cut into files. A
    problem's text after its first ": " is the beginning of the record. With format text, a line or file over
    ``max_document_bytes`` is several rows that follow each other, cut where white space is.

    Raises:
        BadData: there is nothing at the path, or nothing in it, or it is of another format.
        SchemaMismatch: a column is missing or is not text.
    """
    documents = open_documents(spark, config)
    return (
        documents.mapInArrow(lambda batches: batches, DOCUMENTS) if isinstance(documents, TextDocuments) else documents
    )


def open_documents(spark: SparkSession, config: TextConfig) -> DataFrame | TextDocuments:
    """Return what read() does, not as a DataFrame where the tasks that use the documents can make them themselves.

    Raises:
        BadData, SchemaMismatch: as read().
    """
    if config.deleted is not None:
        deleted_ids(spark, config)  # so that a wrong table is found before long work
    if config.format == "docstrings":
        return conform(python_docstrings.read(spark, config.path), DOCUMENTS)
    if config.format == "text":
        return _open_text(spark, config)
    columns = {"input.column": config.column}
    if config.id_column is not None:
        columns["input.id_column"] = config.id_column
    rows = tabular.read(
        spark, config.path, config.format, columns,
        separator=config.separator, header=config.header, encoding=config.encoding,
        multiline=config.multi_line, multiline_option="input.multi_line",
        types={"input.column": ["string"]}, max_bytes=config.max_document_bytes, max_option=_LIMIT,
    )  # fmt: skip
    identity = _from_text(F.col("id_column")) if config.id_column is not None else None
    return conform(_documents(rows.withColumnRenamed("column", "text"), config, identity), DOCUMENTS)


def deleted_ids(spark: SparkSession, config: TextConfig) -> DataFrame:
    """Return the ids (bigint) of the documents that are to be left out."""
    name = config.id_column
    assert config.deleted is not None
    assert name is not None
    try:
        table = tabular.stored(spark, config.deleted, "delta")
        kinds = {field.name: field.dataType for field in table.schema}
    except AnalysisException as error:
        reason = str(error).splitlines()[0]
        raise BadData(f"{config.deleted}: no Delta table ({reason}); correct input.deleted") from None
    if name not in kinds:
        raise SchemaMismatch(f"{config.deleted}: no column {name!r} (columns: {', '.join(kinds)}); set input.id_column")
    key = _from_text(ids.as_text(expressions.column(name), kinds[name]))
    return table.select(key.alias("id")).where("id IS NOT NULL").distinct()


def version(spark: SparkSession, config: TextConfig) -> str:
    """Return the version of the documents, and of the table of deleted ones."""
    versions = [input_version.version(spark, config)]
    if config.deleted is not None:
        versions.append(input_version.DeltaTable(config.deleted).version(spark))
    return "+".join(versions)


def _open_text(spark: SparkSession, config: TextConfig) -> TextDocuments:
    """Return the lines or files of text files."""
    encoding, limit = config.encoding, config.max_document_bytes
    if config.per == "file":
        return TextDocuments(
            spark, config.path, encoding, lambda part: line_reader.read_document(part, encoding, limit), whole=True
        )
    file_lines.check_heads(config.path, encoding)
    return TextDocuments(
        spark, config.path, encoding, lambda part: line_reader.read(part, encoding, limit, None), whole=False
    )


def _documents(rows: DataFrame, config: TextConfig, identity: Column | None) -> DataFrame:
    """Complete (text, origin, problem) with ids and with the problems that all sources share."""
    limit = config.max_document_bytes
    problem = F.coalesce(
        F.col("problem"),
        F.when(F.col("text").isNull(), "null"),
        F.when(F.octet_length("text") > limit, f"document over {limit} bytes ({_LIMIT})"),
    )
    if identity is not None:
        problem = F.coalesce(problem, F.when(identity.isNull(), f"{config.id_column} is null"))
    key = F.xxhash64(F.coalesce("text", "problem"))
    return rows.select(
        (key if identity is None else F.coalesce(identity, key)).alias("id"),
        F.when(problem.isNull(), F.col("text")).alias("text"),
        "origin",
        problem.alias("problem"),
    )


def _from_text(value: Column) -> Column:
    """Return an id from its text: an integer as it is, anything else hashed."""
    return F.when(
        value.isNotNull(),
        F.coalesce(F.when(value.rlike("^(0|-?[1-9][0-9]{0,18})$"), value.try_cast("bigint")), F.xxhash64(value)),
    )
