"""Rate and memory of the moments pass over made-up rows: 2 x 256 numbers, beside the bare matrix product."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import common
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pyarrow as pa

WIDTH = 512  # both sides
_BATCH = 5000


def rate(rows: int) -> dict[str, float]:
    """Return rows per second of the pass beyond what a small one takes, over those of the bare product, and memory."""
    bound = product_rate()
    common.say("bare product, one core", rows_per_second=bound)
    found = []
    for part in (rows // 10, rows):
        told = common.measured(common.this_python(__file__, str(part)))
        seconds, carried = told.said["seconds"], told.said["transport_seconds"]
        common.say(f"{part:,} rows", seconds=seconds, transport_seconds=carried, peak_mib=told.peak_bytes >> 20)
        found.append((part, seconds, carried, told.peak_bytes))
    (few, short, light, small), (many, long, heavy, large) = found
    steady = (many - few) / max(long - short, 1e-9)
    return {
        "moments_rows_per_second": steady,
        "moments_over_product": steady / (common.THREADS * bound),
        "moments_over_transport": (heavy - light) / max(long - short, 1e-9),
        "moments_memory_of_ten_times_the_rows": large / small,
    }


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


def main(rows: int) -> None:
    """Measure the pass in this process and print it as JSON."""
    from embedall_spark import session
    from embedall_spark.latent.fit import covariance

    spark = session.get("moments", master=f"local[{common.THREADS}]")

    def made(count: int) -> float:
        vectors = spark.range(count).mapInArrow(_maker(), "id string, vector array<float>")
        since = time.perf_counter()
        found = covariance.of_vectors(vectors)
        assert found.rows == count
        return time.perf_counter() - since

    def carried(count: int) -> float:
        """Return how long the same rows take to come to a task that only counts them."""
        vectors = spark.range(count).mapInArrow(_maker(), "id string, vector array<float>")
        since = time.perf_counter()
        vectors.selectExpr("1d AS weight", "vector AS x").mapInArrow(_counter(), "rows long").count()
        return time.perf_counter() - since

    made(_BATCH)
    carried(_BATCH)
    print(json.dumps({"seconds": made(rows), "transport_seconds": carried(rows)}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
