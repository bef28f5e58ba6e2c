"""Rate and memory of the moments pass over made-up rows: 2 x 256 dimensions, beside the bare matrix product."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import common
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import pyarrow as pa

WIDTH = 512  # both sides
_BATCH = 5000


def rate(rows: int, quick: bool) -> dict[str, float]:
    """Return rows per second of the pass beyond what a small one takes, over those of the bare product, and memory.

    Each pass has a process of its own, whose memory is measured; if quick, they share one, and memory is left out.
    """
    bound = product_rate(1 if quick else 3)
    common.say("bare product, one core", rows_per_second=bound)
    parts = (rows // 10, rows)
    runs = [
        common.measured(common.this_python(__file__, *map(str, group))) for group in ([parts] if quick else zip(parts))
    ]
    (short, light), (long, heavy) = (passed for run in runs for passed in run.said["passes"])
    common.say("passes over rows", rows=parts, seconds=[short, long], transport_seconds=[light, heavy])
    steady = (rows - rows // 10) / max(long - short, 1e-9)
    ratios = {
        "moments_rows_per_second": steady,
        "moments_over_product": steady / (common.THREADS * bound),
        "moments_over_transport": (heavy - light) / max(long - short, 1e-9),
    }
    if not quick:
        common.say("memory", peak_mib=[run.peak_bytes >> 20 for run in runs])
        ratios["moments_memory_of_ten_times_the_rows"] = runs[1].peak_bytes / runs[0].peak_bytes
    return ratios


def product_rate(seconds: float = 3) -> float:
    """Return rows per second of converting and multiplying blocks as a task does, on one core."""
    from threadpoolctl import threadpool_limits

    block = _block()
    with threadpool_limits(1):
        done, since = 0, time.perf_counter()
        while time.perf_counter() - since < seconds:
            wide = block.astype(np.float64)
            wide.T @ wide
            done += len(block)
        return done / (time.perf_counter() - since)


def _block() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((_BATCH, WIDTH)).astype(np.float32)


def _maker() -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Build the task's function: a vector for each number, from one block over and over."""

    def make(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        block = _block()
        for batch in batches:
            for start in range(0, batch.num_rows, _BATCH):
                part = batch.slice(start, _BATCH)
                ends = pa.array(np.arange(part.num_rows + 1, dtype=np.int32) * WIDTH)
                vectors = pa.ListArray.from_arrays(ends, pa.array(block[: part.num_rows].ravel()))
                yield pa.RecordBatch.from_arrays([part["id"].cast(pa.string()), vectors], ["id", "vector"])

    return make


def _counter() -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        total = sum(batch.num_rows for batch in batches)
        yield pa.RecordBatch.from_pydict({"rows": pa.array([total])})

    return count


def main(parts: Sequence[int]) -> None:
    """Measure passes over so many rows in this process; print the seconds of each and of its transport as JSON."""
    from embedall_spark import session
    from embedall_spark.latent.fit import covariance

    spark = session.get("moments", master=f"local[{common.THREADS}]")

    def made(count: int) -> float:
        vectors = spark.range(count).mapInArrow(_maker(), "id string, vector array<float>")
        since = time.perf_counter()
        moments = covariance.of_vectors(vectors)
        assert moments.rows == count
        return time.perf_counter() - since

    def carried(count: int) -> float:
        """Return how long the same rows take to come to a task that only counts them."""
        vectors = spark.range(count).mapInArrow(_maker(), "id string, vector array<float>")
        since = time.perf_counter()
        vectors.selectExpr("1d AS weight", "vector AS x").mapInArrow(_counter(), "rows long").count()
        return time.perf_counter() - since

    made(_BATCH)
    carried(_BATCH)
    print(json.dumps({"passes": [(made(rows), carried(rows)) for rows in parts]}))


if __name__ == "__main__":
    main([int(rows) for rows in sys.argv[1:]])
