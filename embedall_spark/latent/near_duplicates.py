"""Near-duplicates among vectors, found without comparing all pairs."""

from __future__ import annotations

import logging
import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.ml.feature import Normalizer
from pyspark.ml.functions import array_to_vector
from pyspark.ml.stat import Summarizer
from pyspark.sql import functions as F
from threadpoolctl import threadpool_limits

from embedall_spark import randomness
from embedall_spark.errors import BadData
from embedall_spark.vectors import slices, to_matrix, unit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    Batches = Iterable[pa.RecordBatch]

log = logging.getLogger(__name__)

MAX_BUCKET = 2000  # rows of a bucket that are compared with each other
NEAREST = 5  # candidates of each row, the nearest by their sketches, whose vectors are compared
_MISSED = 0.01  # share of pairs at the threshold that may share no bucket
_MAX_BANDS = 64
_SLACK = 4  # standard deviations of a sketch's estimate
_BATCH_ROWS = 1000
_SKETCHES = "band int, code long, id string, sketch binary"
_LINKS = "a string, b string"
_KEYS = ("band", "code", "piece")


def near_duplicates(vectors: DataFrame, cosine: float, seed: int) -> DataFrame:
    """Return pairs of vectors of at least this cosine: a and b, ids, a before b.

    Random hyperplanes (Charikar 2002, "Similarity Estimation Techniques from Rounding Algorithms"): only vectors that
    share a bucket are compared, first by their sketches, the signs of all hyperplanes; the cost grows as rows times
    bands. Some pairs are missed: about one in a hundred right at the threshold shares no bucket (fewer of the nearer
    ones); a bucket of more than MAX_BUCKET rows is divided into pieces by a hash, and only rows of one piece are
    compared; each vector is compared with only the NEAREST of those before it in its bucket.

    Args:
        vectors: id and vector, all different.
        cosine: above 0.5, below 1.
        seed: of the hyperplanes.

    Raises:
        BadData: there are no vectors.
    """
    features = vectors.select("id", array_to_vector(F.col("vector")).alias("raw"))
    units = Normalizer(p=2.0, inputCol="raw", outputCol="features").transform(features)
    row = units.agg(F.count("*").alias("rows"), Summarizer.mean(F.col("features")).alias("mean")).first()
    if row is None or not row["rows"]:
        raise BadData("the left side has no vectors; need a table with rows")
    # Rounded: the last digits of a sum depend on the order of the rows.
    mean = np.nan_to_num(np.array(row["mean"].toArray())).astype(np.float32).astype(np.float64)
    agree, bits, bands = plan(row["rows"], cosine, float(mean @ mean))
    planes = randomness.generator(seed, len(mean)).standard_normal((bands * bits, len(mean)))
    sketches = vectors.mapInArrow(_sketcher(planes, mean, bands), _SKETCHES)
    sizes = sketches.groupBy("band", "code").count().where("count > 1")
    shared = sketches.join(sizes, ["band", "code"])
    piece = F.pmod(F.xxhash64("id"), F.ceil(F.col("count") / MAX_BUCKET)).alias("piece")
    buckets = shared.select("band", "code", piece, "id", "sketch").repartition(*_KEYS)
    ordered = buckets.sortWithinPartitions(*_KEYS, "id")
    min_agreement = agree - _SLACK * math.sqrt(agree * (1 - agree) / (bands * bits))
    candidates = ordered.mapInArrow(_comparer(min_agreement), _LINKS).distinct()
    for end, name in (("a", "x"), ("b", "y")):
        candidates = candidates.join(vectors.select(F.col("id").alias(end), F.col("vector").alias(name)), end)
    return candidates.select("a", "b", "x", "y").mapInArrow(_checker(cosine), _LINKS)


def plan(rows: int, cosine: float, square: float) -> tuple[float, int, int]:
    """Return the share of signs on which near-duplicates agree, the bits of a bucket's code, and the number of bands.

    The mean is subtracted before signs are taken: most vectors of a network have only positive values and would share
    a bucket. A typical pair of cosine c then has the cosine (c - m) / (1 - m).

    Args:
        rows: how many vectors there are.
        cosine: of near-duplicates, at least.
        square: m, the squared length of the mean of the unit vectors.
    """
    bits = max(8, min(24, math.ceil(math.log2(max(rows, 2)))))
    square = min(square, 0.99)
    centered = max(-1.0, min(1.0, (cosine - square) / (1 - square)))
    agree = 1 - math.acos(centered) / math.pi
    collision = min(max(agree**bits, 1e-9), 1 - 1e-9)
    bands = max(1, math.ceil(math.log(_MISSED) / math.log1p(-collision)))
    if bands > _MAX_BANDS:
        missed = (1 - collision) ** _MAX_BANDS
        log.warning("near-duplicates: about %.0f%% of the pairs of cosine %.3f will be missed", 100 * missed, cosine)
    return agree, bits, min(bands, _MAX_BANDS)


def _sketcher(planes: NDArray[np.float64], mean: NDArray[np.float64], bands: int) -> Callable[[Batches], Batches]:
    """Build the task's function: a row per vector and band, with the bucket's code and the vector's signs."""
    bits = len(planes) // bands
    powers = 1 << np.arange(bits, dtype=np.int64)

    def sketcher(batches: Batches) -> Iterator[pa.RecordBatch]:
        with threadpool_limits(1):
            for batch in slices(batches, _BATCH_ROWS):
                above = (unit(to_matrix(batch["vector"])) - mean) @ planes.T > 0
                codes = above.reshape(len(above), bands, bits) @ powers
                sketch = pa.array([row.tobytes() for row in np.packbits(above, axis=1)])
                for band in range(bands):
                    columns = [pa.array(np.full(len(above), band), pa.int32()), pa.array(codes[:, band])]
                    columns += [batch["id"], sketch]
                    yield pa.RecordBatch.from_arrays(columns, ["band", "code", "id", "sketch"])

    return sketcher


def _comparer(min_agreement: float) -> Callable[[Batches], Batches]:
    """Build the task's function: pairs that agree in many signs, of buckets' pieces whose rows are contiguous."""

    def compare(ids: list[str], sketches: list[bytes]) -> pa.RecordBatch:
        signs = np.unpackbits(np.frombuffer(b"".join(sketches), np.uint8).reshape(len(ids), -1), axis=1)
        # The last byte is padded with zeros, which all share.
        signed = signs.astype(np.float32) * 2 - 1
        agree = np.tril((signed @ signed.T / signed.shape[1] + 1) / 2, -1)
        order = np.argsort(-agree, axis=1, kind="stable")[:, :NEAREST]
        b, rank = np.nonzero(np.take_along_axis(agree, order, axis=1) >= min_agreement)
        names = pa.array(ids, pa.string())
        columns = [names.take(pa.array(order[b, rank])), names.take(pa.array(b))]
        return pa.RecordBatch.from_arrays(columns, ["a", "b"])

    def comparer(batches: Batches) -> Iterator[pa.RecordBatch]:
        piece, ids, sketches = None, list[str](), list[bytes]()
        with threadpool_limits(1):
            for batch in batches:
                if not batch.num_rows:
                    continue
                keys = list(zip(*(batch[name].to_pylist() for name in _KEYS), strict=True))
                starts = [0, *(row for row in range(1, len(keys)) if keys[row] != keys[row - 1]), len(keys)]
                for start, stop in pairwise(starts):
                    if ids and keys[start] != piece:
                        yield compare(ids, sketches)
                        ids, sketches = [], []
                    piece = keys[start]
                    ids += batch["id"].slice(start, stop - start).to_pylist()
                    sketches += batch["sketch"].slice(start, stop - start).to_pylist()
            if ids:
                yield compare(ids, sketches)

    return comparer


def _checker(cosine: float) -> Callable[[Batches], Batches]:
    """Build the task's function: the pairs whose vectors have at least this cosine."""

    def checker(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if batch.num_rows:
                x, y = (unit(to_matrix(batch[name])).astype(np.float64) for name in "xy")
                similar = pa.array(np.einsum("ij,ij->i", x, y) >= cosine)
                yield pa.RecordBatch.from_arrays([batch[end].filter(similar) for end in "ab"], ["a", "b"])

    return checker
