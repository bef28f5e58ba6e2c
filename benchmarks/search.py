"""Searching a table of vectors: through Spark, transfer included, beside bare faiss on the same cores and vectors.

The vectors are a mixture of clusters. Ours reads the Delta table, passes the vectors to its tasks and merges what they
find; faiss's IndexFlatIP holds the same unit rows in memory already, and uses as many threads as ours has cores.
"""

from __future__ import annotations

import tempfile
import time
import zlib
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import common
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import functions as F

from embedall_spark import randomness, schemas, session, tables
from embedall_spark.search import ann, exact, exact_batch
from embedall_spark.vectors import unit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame, SparkSession

GOALS = {"exact_over_faiss_20000": 0.9, "recall": 0.95, "approximate_over_exact": 10.0}
# So few vectors are searched before Spark has started its tasks: they say nothing about speed.
QUICK_GOALS = {"recall": 0.95}
K = 10
_CLUSTERS, _SPREAD = 2_000, 0.7  # of the centers' own deviation
_PART = 50_000  # rows made at once


class Stored(NamedTuple):
    """Vectors as a table, and the same ones for faiss."""

    table: DataFrame
    folder: Path

    def matrix(self) -> NDArray[np.float32]:
        """Return the vectors, float32 [n, d]."""
        return common.matrix(pq.read_table(self.folder, columns=["vector"])["vector"])


class Size(NamedTuple):
    """How much is searched, and how often."""

    rows: int
    d: int
    rounds: int
    files: int
    queries: tuple[int, ...]
    """Numbers of queries that are searched at once."""


WHOLE, QUICK = Size(1_000_000, 128, 3, 8, (1, 1_000, 20_000)), Size(20_000, 64, 1, 2, (1, 500))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = common.options(__doc__ or "")
    parser.add_argument("--rows", type=int, help="vectors in the table")
    parser.add_argument("--cores", type=int, default=common.THREADS, help="cores that each side uses")
    options = parser.parse_args(arguments)
    size = QUICK if options.quick else WHOLE
    size = size._replace(rows=options.rows or size.rows)
    if not options.quick:
        common.announce(20)
    with tempfile.TemporaryDirectory(prefix="embedall-search-") as work:
        ratios = measure(Path(work), size, options.cores)
    print(common.result("search", ratios, QUICK_GOALS if options.quick else GOALS))


def measure(work: Path, size: Size, cores: int) -> dict[str, float]:
    """Return exact search's speed over faiss's for each number of queries, and what the index reaches."""
    spark = session.get("search", master=f"local[{cores}]")
    vectors = store(spark, work, "vectors", size.rows, size)
    queries = {count: store(spark, work, f"queries-{count}", count, size) for count in size.queries}
    ours = {count: partial(exactly, vectors.table, queries[count], work) for count in size.queries}
    seconds: dict[str, list[float]] = {}
    flat, matrices = bare(vectors.matrix()), {count: queries[count].matrix() for count in size.queries}
    for turn in range(size.rounds + 1):
        for count in size.queries:
            mine = timed(ours[count])
            theirs = timed(partial(by_faiss, flat, matrices[count], cores))
            common.say("cold" if not turn else f"round {turn}", queries=count, seconds=mine, faiss=theirs)
            if turn:
                seconds.setdefault(f"ours_{count}", []).append(mine)
                seconds.setdefault(f"faiss_{count}", []).append(theirs)
    del flat
    middle = {name: median(values) for name, values in seconds.items()}
    ratios = {f"exact_over_faiss_{count}": middle[f"faiss_{count}"] / middle[f"ours_{count}"] for count in size.queries}
    return ratios | approximately(
        vectors.table, queries[size.queries[-1]].table, work, size.rounds, middle[f"ours_{size.queries[-1]}"]
    )


def approximately(vectors: DataFrame, queries: DataFrame, work: Path, rounds: int, seconds: float) -> dict[str, float]:
    """Return the index's recall on the queries, and its speed over that of exact search, which took ``seconds``."""
    folder = str(work / "index")
    since = time.perf_counter()
    manifest = ann.build(vectors, folder, table="vectors", version="1@0")
    facts = {"parts": len(manifest.parts), "lists": manifest.lists, "probes": manifest.probes}
    common.say("index", seconds=time.perf_counter() - since, recall_at_build=manifest.recall, **facts)

    def approximate() -> DataFrame:
        return ann.top_k(queries, K, folder, manifest, folder=str(work / "asked"))

    taken = [timed(lambda: run(approximate())) for _ in range(rounds + 1)][1:]
    exact_ones = exact_batch.top_k(vectors, queries, K, folder=str(work / "asked-exactly"))
    both = approximate().join(exact_ones.select("query", "id"), ["query", "id"], "left_semi").count()
    recall = both / (K * queries.count())
    common.say("approximate", seconds=median(taken), recall=recall)
    return {"recall": recall, "approximate_over_exact": seconds / median(taken)}


def exactly(vectors: DataFrame, queries: Stored, work: Path) -> None:
    """Search as the command does: a single query by the search for few, else by the job for many."""
    if len(matrix := queries.matrix()) == 1:
        exact.top_k(vectors, matrix, K)
    else:
        run(exact_batch.top_k(vectors, queries.table, K, folder=str(work / "asked")))


def run(rows: DataFrame) -> None:
    """Compute all rows and throw them away."""
    rows.write.format("noop").mode("overwrite").save()


def bare(rows: NDArray[np.float32]) -> object:
    """Return faiss's index of all rows, in memory."""
    import faiss

    flat = faiss.IndexFlatIP(rows.shape[1])
    flat.add(unit(rows))
    return flat


def by_faiss(flat: object, queries: NDArray[np.float32], cores: int) -> None:
    """Search all queries at once, as users of faiss do."""
    import faiss

    faiss.omp_set_num_threads(cores)
    flat.search(unit(queries), K)  # type: ignore[attr-defined]


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds a call takes."""
    since = time.perf_counter()
    work()
    return time.perf_counter() - since


def store(spark: SparkSession, work: Path, name: str, rows: int, size: Size) -> Stored:
    """Return vectors drawn from the same clusters as all of them."""
    folder = work / f"{name}-parquet"
    folder.mkdir()
    centers = randomness.generator(1).standard_normal((_CLUSTERS, size.d), dtype=np.float32)
    for start in range(0, rows, _PART):
        count = min(_PART, rows - start)
        draw = randomness.generator(2, zlib.crc32(name.encode()), start)
        drawn = draw.standard_normal((count, size.d), dtype=np.float32)
        points = centers[draw.integers(0, _CLUSTERS, count)] + np.float32(_SPREAD) * drawn
        ends = pa.array(np.arange(count + 1, dtype=np.int32) * size.d)
        ids = [f"{name}-{start + i}" for i in range(count)]
        vectors = pa.ListArray.from_arrays(ends, pa.array(points.ravel()))
        pq.write_table(pa.table({"id": ids, "vector": vectors, "norm": np.ones(count)}), folder / f"{start:09}.parquet")
    read = spark.read.parquet(str(folder)).withColumns({"kind": F.lit("words"), "run_id": F.lit(name)})
    spread = read.repartition(size.files) if rows > _PART else read.coalesce(1)
    path = str(work / name)
    tables.write(spark, spread, path, schemas.VECTORS, mode="overwrite", run_id=f"{name}-{rows}", vector_size=size.d)
    return Stored(tables.read(spark, path), folder)


if __name__ == "__main__":
    main()
