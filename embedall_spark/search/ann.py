"""Approximate search: faiss indexes beside a table, one per partition, tied to the table's version."""

from __future__ import annotations

import json
import logging
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import Field, ValidationError
from pyspark.sql import functions as F

from embedall_spark import cluster_slots, files
from embedall_spark.config import Section
from embedall_spark.errors import BadData, TableError
from embedall_spark.search import exact, exact_batch, faiss_part, mapped_vectors
from embedall_spark.search.mapped_vectors import Packed
from embedall_spark.vectors import to_matrix, unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyspark.sql import Column, DataFrame, SparkSession

    from embedall_spark.search.local_table import Hit
    from embedall_spark.search.mapped_vectors import Source

log = logging.getLogger(__name__)

SAMPLE, K = 1000, 10  # queries that recall is measured on, and how many neighbors of each
_PART_BYTES = 512 << 20
_MIN_PART_ROWS = 100_000  # parts are not made smaller than this only to use more cores
_MANIFEST = "manifest.json"


class Manifest(Section):
    """The table that an index serves and how good it is; written last, so that only a finished index has one."""

    table: str = Field(description="the table's name")
    version: str = Field(description="the table's id and version, as sources.input_version.version() returns them")
    build: str = Field(description="the folder of the parts, below the index's")
    metric: str = Field("cosine", description="what scores are")
    d: int = Field(description="dimension of the vectors")
    rows: int = Field(description="rows of the table")
    modulus: int = Field(description="an id's part is its hash modulo this number")
    parts: tuple[int, ...] = Field(description="the parts that have rows")
    lists: int = Field(description="the most inverted lists that a part has; 1: all rows are compared")
    probes: int = Field(1, description="inverted lists that a query searches in each part (faiss's nprobe)")
    recall: float = Field(0.0, description="recall of the 10 nearest, measured when the index was built")
    sample: int = Field(0, description="rows of the table that it was measured on")
    seed: int = Field(description="of the lists and the sample")


def build(
    vectors: DataFrame,
    folder: str,
    *,
    table: str,
    version: str,
    parts: int | None = None,
    recall: float = 0.95,
    small: int = faiss_part.SMALL,
    seed: int = 1,
) -> Manifest:
    """Build an index of a table and switch to it; a previous one serves until then, and is removed afterwards.

    Each partition becomes an IndexIVFFlat of faiss, a small one an IndexFlatIP, over unit vectors. The number of lists
    to search (nprobe) is the least with which a sample of the table finds its 10 nearest, itself left out, with this
    recall; a row with the score of the 10th counts as one of them.

    Args:
        vectors: VECTORS.
        folder: where the index goes: a path or URI that all hosts share; nothing else should lie in it.
        table: the table's name, for errors.
        version: the table's id and version that ``vectors`` is read from, as sources.input_version.version() returns
            them.
        parts: into how many partitions; None: by size and cores.
        recall: the least recall.
        small: up to how many rows all rows of a partition are compared.
        seed: of the lists and the sample; the same rows, parts and seed give the same index.

    Raises:
        BadData: the table is empty, or its vectors differ in dimension.
        TableError: files vanished while the index was built.
    """
    row = vectors.agg(F.count("*").alias("rows"), F.first(F.size("vector")).alias("d")).first()
    if row is None or not row["rows"]:
        raise BadData(f"{table}: the table is empty; an index needs vectors")
    size, d = int(row["rows"]), int(row["d"])
    modulus = parts or _parts(vectors.sparkSession, size, d)
    name = f"build-{uuid.uuid4().hex[:12]}"
    build_folder = f"{folder.rstrip('/')}/{name}"
    try:
        rows = vectors.select(_part(modulus).alias("part"), "id", "vector").repartition(modulus, "id")
        built = rows.mapInArrow(
            faiss_part.builder(build_folder, d, small, seed), "part int, rows int, lists int"
        ).collect()
        numbers = tuple(sorted(int(part["part"]) for part in built))
        about = {"table": table, "version": version, "build": name, "d": d, "rows": size, "modulus": modulus}
        lists = max(int(part["lists"]) for part in built)
        manifest = _tuned(vectors, folder, Manifest(**about, parts=numbers, lists=lists, seed=seed), recall)
        # Another build of the same index removes files that it does not know.
        if len(files.children(build_folder)) < 2 * len(numbers):
            raise TableError(f"{folder}: parts of the index vanished during the build; run no other build of it")
        files.write_bytes(f"{folder.rstrip('/')}/{_MANIFEST}", manifest.model_dump_json(indent=1).encode())
    except BaseException:
        files.delete(build_folder)
        raise
    for other in files.children(folder):
        if other.startswith("build-") and other != name:
            files.delete(f"{folder.rstrip('/')}/{other}")
    return manifest


def load(folder: str, version: str) -> Manifest:
    """Return the manifest of a finished index of this version of a table.

    Raises:
        TableError: there is no finished index, or it is that of another table or version.
    """
    path = f"{folder.rstrip('/')}/{_MANIFEST}"
    remedy = "build it with: embedall index TABLE"
    if not files.exists(path):
        is_unfinished = files.exists(folder) and any(name.startswith("build-") for name in files.children(folder))
        content = "an unfinished index (its build was stopped)" if is_unfinished else "no index"
        raise TableError(f"{folder}: holds {content}; {remedy}")
    try:
        manifest = Manifest.model_validate(json.loads(files.read_bytes(path)))
    except (ValidationError, ValueError):
        raise TableError(f"{path}: is not an index manifest of this version of embedall; {remedy}") from None
    if manifest.version != version:
        (old_id, old), (new_id, new) = (text.rpartition("@")[::2] for text in (manifest.version, version))
        replaced = "" if old_id == new_id else ", and is another one or was replaced since"
        message = f"the index is of version {old} of {manifest.table}, the table is at version {new}{replaced}"
        raise TableError(f"{folder}: {message}; {remedy}, or search with --rebuild")
    return manifest


def search(
    spark: SparkSession,
    folder: str,
    manifest: Manifest,
    source: Source,
    k: int,
    *,
    exclude_same_id: bool = False,
    subset: DataFrame | None = None,
) -> DataFrame:
    """Return the ``k`` nearest rows of each query by cosine, as NEIGHBORS, as far as the index finds them.

    Args:
        spark: the session.
        folder: of the index.
        manifest: of the index.
        source: returns the queries in a task, such as ``partial(mapped_vectors.stored, folder, d)`` or
            ``in_memory_queries()``.
        k: how many.
        exclude_same_id: leave out of a query's neighbors the row that has its id.
        subset: find only these ids of the table; the fewer they are, the more lists are searched.
    """
    number = manifest.modulus
    if subset is None:
        rows = spark.range(0, number, 1, number).select(
            F.col("id").cast("int").alias("part"), F.lit(None).cast("string").alias("id")
        )
    else:
        rows = subset.select(_part(number).alias("part"), "id").repartition(number, "id")
    build_folder, parts = f"{folder.rstrip('/')}/{manifest.build}", frozenset(manifest.parts)
    task = faiss_part.searcher(build_folder, parts, manifest.probes, source, k, exclude_same_id)
    return exact_batch.best(rows.mapInArrow(task, exact_batch.HITS), k)


def top_k(
    queries: DataFrame,
    k: int,
    index: str,
    manifest: Manifest,
    *,
    folder: str,
    exclude_same_id: bool = False,
    subset: DataFrame | None = None,
) -> DataFrame:
    """Return the ``k`` nearest rows of each query as exact_batch.top_k() does, as far as the index finds them.

    Args:
        queries: any table with ``id`` and ``vector``.
        k: how many.
        index: the index's folder.
        manifest: of the index.
        folder: where the queries are written for the tasks; it must stay until the result has been computed.
        exclude_same_id: leave out of a query's neighbors the row that has its id.
        subset: find only these ids of the table.

    Raises:
        ConfigError: ``k`` is out of range, or queries and vectors differ in dimension.
        BadData: there are no queries.
    """
    exact_batch.check(queries, manifest.d, k)
    mapped_vectors.store(queries, folder)
    source = partial(mapped_vectors.stored, folder, manifest.d)
    return search(queries.sparkSession, index, manifest, source, k, exclude_same_id=exclude_same_id, subset=subset)


def in_memory_queries(ids: Sequence[str], matrix: Any) -> Source:
    """Return a few queries, float [q, d], as a source that travels with each task."""
    units = unit(np.ascontiguousarray(matrix, dtype=np.float32))
    return partial(Packed, pa.array(ids, pa.string()), units)


def _part(modulus: int) -> Column:
    """Return an id's part: the partition that Spark's repartition(modulus, "id") puts it in."""
    return F.pmod(F.hash("id"), F.lit(modulus))


def _parts(spark: SparkSession, rows: int, d: int) -> int:
    return max(-(-rows * d * 4 // _PART_BYTES), min(cluster_slots.total(spark), rows // _MIN_PART_ROWS), 1)


def _tuned(vectors: DataFrame, folder: str, manifest: Manifest, target: float) -> Manifest:
    """Return the manifest with the fewest probes that reach the recall, and the recall that they reach."""
    sample = vectors.orderBy(F.xxhash64(F.lit(manifest.seed), "id"), "id").limit(SAMPLE)
    table = sample.select("id", "vector").toArrow()
    ids, matrix = table["id"].to_pylist(), to_matrix(table["vector"])
    expected = exact.top_k(vectors, matrix, K, exclude=[{name} for name in ids])
    for probes in _efforts(manifest.lists):
        tried = manifest.model_copy(update={"probes": probes, "sample": len(ids)})
        source = in_memory_queries(ids, matrix)
        hits = search(vectors.sparkSession, folder, tried, source, K, exclude_same_id=True).toArrow()
        recall = _recall(hits, dict(zip(ids, expected, strict=True)))
        log.info("index: nprobe %d of up to %d lists, recall@%d %.4f", probes, manifest.lists, K, recall)
        if recall >= target:
            break
    return tried.model_copy(update={"recall": recall})


def _efforts(lists: int) -> Iterator[int]:
    """Yield the numbers of lists to try, each at most twice the one before, up to all."""
    probes = 1
    while probes < lists:
        yield probes
        if probes >= 4:
            yield min(lists, probes * 3 // 2)
        probes *= 2
    yield lists


def _recall(hits: pa.Table, expected: dict[str, list[Hit]]) -> float:
    """Return the share of the exact neighbors that were found, 1 if there are none; ties with the last count."""
    thresholds = {name: neighbors[-1][1] - 1e-6 for name, neighbors in expected.items() if neighbors}
    pairs = zip(hits["query"].to_pylist(), hits["score"].to_pylist(), strict=True)
    matched: int = sum(score >= thresholds[name] for name, score in pairs if name in thresholds)
    return matched / total if (total := sum(map(len, expected.values()))) else 1.0
