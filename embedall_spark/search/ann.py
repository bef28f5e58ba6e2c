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
from pyspark.sql import types as T

from embedall_spark import cluster_slots, files
from embedall_spark.config import Section
from embedall_spark.errors import BadData, TableError
from embedall_spark.search import exact, exact_batch, faiss_part, mapped_vectors
from embedall_spark.search.exact_kernel import unit
from embedall_spark.search.mapped_vectors import Packed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyspark.sql import Column, DataFrame, SparkSession

    from embedall_spark.search.exact import Hit
    from embedall_spark.search.mapped_vectors import Source

log = logging.getLogger(__name__)

SAMPLE, K = 1000, 10  # queries by which recall is measured, and of how many neighbours
_PART_BYTES = 512 << 20
_PART_ROWS = 100_000  # no smaller parts only to use more cores
_MANIFEST = "manifest.json"
_BUILT = T.StructType([T.StructField(name, T.IntegerType()) for name in ("part", "rows", "lists")])


class Manifest(Section):
    """What an index is of and how good it is; written last, so that only a finished index has one."""

    table: str = Field(description="the table's name")
    version: str = Field(description="the table's id and version, as sources.listing.version() tells them")
    build: str = Field(description="the folder of the parts, below the index's")
    metric: str = Field("cosine", description="what scores are")
    d: int = Field(description="numbers of a vector")
    rows: int = Field(description="rows of the table")
    modulus: int = Field(description="an id's part is its hash modulo this number")
    parts: tuple[int, ...] = Field(description="the parts that have rows")
    lists: int = Field(description="the most inverted lists that a part has; 1: all rows are looked at")
    probes: int = Field(1, description="inverted lists that a query looks into in each part")
    recall: float = Field(0.0, description="recall of the 10 nearest, measured when the index was built")
    sample: int = Field(0, description="rows of the table that were asked for to measure it")
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
    to look into is the least with which a sample of the table finds its 10 nearest, themselves left out, with this
    recall; a row that scores as the 10th counts as one of them.

    Args:
        vectors: VECTORS.
        folder: where the index goes: a path or URI that all hosts share; nothing else should lie in it.
        table: the table's name, to be told in errors.
        version: the table's id and version that ``vectors`` is read from, as sources.listing.version() tells them.
        parts: into how many partitions; unset: by size and cores.
        recall: the least recall.
        small: up to how many rows a partition is searched whole.
        seed: of the lists and the sample; the same rows, parts and seed give the same index.

    Raises:
        BadData: the table is empty, or its vectors differ in length.
        TableError: files vanished while the index was built.
    """
    row = vectors.agg(F.count("*").alias("rows"), F.first(F.size("vector")).alias("d")).first()
    if row is None or not row["rows"]:
        raise BadData(f"{table}: the table is empty; an index needs vectors")
    size, d = int(row["rows"]), int(row["d"])
    modulus = parts or _parts(vectors.sparkSession, size, d)
    name = f"build-{uuid.uuid4().hex[:12]}"
    place = f"{folder.rstrip('/')}/{name}"
    try:
        rows = vectors.select(_part(modulus).alias("part"), "id", "vector").repartition(modulus, "id")
        made = rows.mapInArrow(faiss_part.builder(place, d, small, seed), _BUILT).collect()
        known = tuple(sorted(int(part["part"]) for part in made))
        facts = {"table": table, "version": version, "build": name, "d": d, "rows": size, "modulus": modulus}
        lists = max(int(part["lists"]) for part in made)
        manifest = _tuned(vectors, folder, Manifest(**facts, parts=known, lists=lists, seed=seed), recall)
        # Another build of the same index removes what it does not know.
        if len(files.children(place)) < 2 * len(known):
            raise TableError(f"{folder}: parts of the index vanished while it was built; build it alone")
        files.write_bytes(f"{folder.rstrip('/')}/{_MANIFEST}", manifest.model_dump_json(indent=1).encode())
    except BaseException:
        files.delete(place)
        raise
    for other in files.children(folder):
        if other.startswith("build-") and other != name:
            files.delete(f"{folder.rstrip('/')}/{other}")
    return manifest


def load(folder: str, version: str) -> Manifest:
    """Return the manifest of a finished index of this version of a table.

    Raises:
        TableError: there is no finished index, or it is of another table or version.
    """
    path = f"{folder.rstrip('/')}/{_MANIFEST}"
    again = "build it with: embedall index TABLE"
    if not files.exists(path):
        begun = any(name.startswith("build-") for name in files.children(folder)) if files.exists(folder) else False
        found = "an index that was never finished (its build was ended)" if begun else "no index"
        raise TableError(f"{folder}: holds {found}; {again}")
    try:
        manifest = Manifest.model_validate(json.loads(files.read_bytes(path)))
    except (ValidationError, ValueError):
        raise TableError(f"{path}: is no manifest of an index as this version of embedall writes it; {again}") from None
    if manifest.version != version:
        (had, at), (has, now) = (text.rpartition("@")[::2] for text in (manifest.version, version))
        other = "" if had == has else ", and is another one or was replaced since"
        found = f"the index is of version {at} of {manifest.table}, the table is at version {now}{other}"
        raise TableError(f"{folder}: {found}; {again}, or search with --rebuild")
    return manifest


def search(
    spark: SparkSession,
    folder: str,
    manifest: Manifest,
    source: Source,
    k: int,
    *,
    exclude_same_id: bool = False,
    among: DataFrame | None = None,
) -> DataFrame:
    """Return the ``k`` nearest rows of each query by cosine, as NEIGHBOURS, as far as the index finds them.

    Args:
        spark: the session.
        folder: of the index.
        manifest: of the index.
        source: returns the queries in a task, such as ``partial(packed.stored, folder, d)`` or ``given()``.
        k: how many.
        exclude_same_id: leave out of a query's neighbours the row that has its id.
        among: find only these ids of the table; more lists are looked into, the fewer they are.
    """
    number = manifest.modulus
    if among is None:
        rows = spark.range(0, number, 1, number).select(
            F.col("id").cast("int").alias("part"), F.lit(None).cast("string").alias("id")
        )
    else:
        rows = among.select(_part(number).alias("part"), "id").repartition(number, "id")
    place, known = f"{folder.rstrip('/')}/{manifest.build}", frozenset(manifest.parts)
    task = faiss_part.searcher(place, known, manifest.probes, source, k, exclude_same_id)
    return exact_batch.best(rows.mapInArrow(task, exact_batch.FOUND), k)


def top_k(
    queries: DataFrame,
    k: int,
    index: str,
    manifest: Manifest,
    *,
    folder: str,
    exclude_same_id: bool = False,
    among: DataFrame | None = None,
) -> DataFrame:
    """Return the ``k`` nearest rows of each query as batch.top_k() does, as far as the index ``index`` finds them.

    Args:
        queries: any table with ``id`` and ``vector``.
        k: how many.
        index: the index's folder.
        manifest: of the index.
        folder: where the queries are kept meanwhile; it must stay until the result has been computed.
        exclude_same_id: leave out of a query's neighbours the row that has its id.
        among: find only these ids of the table.

    Raises:
        ConfigError: ``k`` is out of range, or queries and vectors differ in length.
        BadData: there are no queries.
    """
    exact_batch.check(queries, manifest.d, k)
    mapped_vectors.store(queries, folder)
    source = partial(mapped_vectors.stored, folder, manifest.d)
    return search(queries.sparkSession, index, manifest, source, k, exclude_same_id=exclude_same_id, among=among)


def in_memory_queries(ids: Sequence[str], matrix: Any) -> Source:
    """Return a few queries, float [q, d], as a source that travels with each task."""
    units = unit(np.ascontiguousarray(matrix, dtype=np.float32))
    return partial(Packed, pa.array(ids, pa.string()), units)


def _part(modulus: int) -> Column:
    """Return an id's part: the partition that Spark's repartition(modulus, "id") puts it in."""
    return F.pmod(F.hash("id"), F.lit(modulus))


def _parts(spark: SparkSession, rows: int, d: int) -> int:
    return max(-(-rows * d * 4 // _PART_BYTES), min(cluster_slots.total(spark), rows // _PART_ROWS), 1)


def _tuned(vectors: DataFrame, folder: str, manifest: Manifest, least: float) -> Manifest:
    """Return the manifest with the fewest probes that reach the recall, and what they reach."""
    chosen = (
        vectors.orderBy(F.xxhash64(F.lit(manifest.seed), "id"), "id").limit(SAMPLE).select("id", "vector").toArrow()
    )
    ids = chosen["id"].to_pylist()
    matrix = exact.to_matrix(chosen["vector"].combine_chunks())
    expected = exact.top_k(vectors, matrix, K, exclude=[{name} for name in ids])
    for probes in _efforts(manifest.lists):
        tried = manifest.model_copy(update={"probes": probes, "sample": len(ids)})
        source = in_memory_queries(ids, matrix)
        found = search(vectors.sparkSession, folder, tried, source, K, exclude_same_id=True).toArrow()
        reached = _recall(found, dict(zip(ids, expected, strict=True)))
        log.info("index: %d of up to %d lists, recall@%d %.4f", probes, manifest.lists, K, reached)
        if reached >= least:
            break
    return tried.model_copy(update={"recall": reached})


def _efforts(lists: int) -> Iterator[int]:
    """Yield numbers of lists to try, each at most twice the one before, up to all."""
    probes = 1
    while probes < lists:
        yield probes
        if probes >= 4:
            yield min(lists, probes * 3 // 2)
        probes *= 2
    yield lists


def _recall(found: pa.Table, expected: dict[str, list[Hit]]) -> float:
    """Return the share of the exact neighbours that were found; ids that score as the last of them are as good."""
    floor = {name: hits[-1][1] - 1e-6 for name, hits in expected.items() if hits}
    pairs = zip(found["query"].to_pylist(), found["score"].to_pylist(), strict=True)
    right: int = sum(score >= floor[name] for name, score in pairs if name in floor)
    return right / max(1, sum(map(len, expected.values())))
