"""How large a corpus and its vocabulary are, estimated from a sample of its documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F
from scipy.special import gammainc

from embedall_spark.corpus import encoded_pages, vocabulary
from embedall_spark.schemas import DOCUMENTS
from embedall_spark.sources.text_documents import TextDocuments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.corpus.encoded_pages import Batches, Table
    from embedall_spark.corpus.tokenizer import TokensConfig

SAMPLE_BYTES = 64 << 20
# Counts up to 4 have a bin each, larger ones share them: their logarithm to the base 2, times this.
_BINS_PER_OCTAVE = 4
# The sample's counts that the law is fitted to; more frequent tokens say nothing of those that are still unseen.
_FITTED = np.array([1, 2, 3, 4, 5, 6, 8, 11, 16])
_EXPONENTS = np.arange(0.2, 1.3, 0.02)
_LOG_PROBABILITIES = np.arange(np.log(1e-14), 0.0, 0.1)


class Sample(NamedTuple):
    """What a sample of documents holds."""

    text_bytes: int
    """Of the sample."""
    all_bytes: int
    """Of the text of all documents, estimated."""
    counts: NDArray[np.int64]
    """The lowest count of each bin, int64 [bins], ascending from 1."""
    distinct: NDArray[np.int64]
    """Distinct tokens in each bin, int64 [bins]."""
    tokens: NDArray[np.int64]
    """Their occurrences, int64 [bins]."""

    def total_tokens(self) -> int:
        """Return the estimated number of tokens in all documents."""
        return round(int(self.tokens.sum()) * self.all_bytes / max(1, self.text_bytes))

    def kept(self, sample: float) -> float:
        """Return the share of tokens that subsampling keeps."""
        if not sample or not len(self.counts):
            return 1.0
        frequency = self.tokens / np.maximum(1, self.distinct) / self.tokens.sum()
        share = np.minimum(1.0, np.sqrt(sample / frequency) + sample / frequency)
        return float((self.tokens * share).sum() / self.tokens.sum())

    def vocabulary(self, tokens: float, min_count: int) -> int:
        """Return the estimated number of distinct tokens that occur ``min_count`` times in so many tokens.

        Method: the finite Zipf-Mandelbrot model (Evert 2004, "A simple LNRE model for random character sequences"): the
        number of types of probability p falls as p to the power -1 - exponent, down to a least p; both are fitted to
        how many types occur at least 1, 2, ... times in the sample.
        """
        if not len(self.counts) or tokens <= self.tokens.sum():
            return int(self._at_least(min_count))
        p, size = np.exp(_LOG_PROBABILITIES), self.tokens.sum()
        counts = _FITTED[self.counts[-1] >= _FITTED]
        observed = np.log([self._at_least(count) for count in counts])
        best, rarer = np.inf, 0.0
        for exponent in _EXPONENTS:
            # Expected types of each probability that occur so often; summed from the largest probability downward.
            each = np.array([gammainc(count, size * p) for count in counts]) * p**-exponent
            expected = np.log(np.maximum(1e-300, np.cumsum(each[:, ::-1], axis=1)[:, ::-1]))
            difference = observed[:, None] - expected
            error = difference.std(axis=0)
            least = int(np.argmin(np.where(size * p < 1, error, np.inf)))
            if error[least] < best:
                best = error[least]
                scale = np.exp(difference[:, least].mean())
                rarer = scale * (gammainc(min_count, tokens * p[least:]) * p[least:] ** -exponent).sum()
        return int(rarer)

    def _at_least(self, count: int) -> float:
        return float(self.distinct[self.counts >= count].sum())


def sample(documents: DataFrame | TextDocuments, config: TokensConfig, text_bytes: int) -> Sample:
    """Return what some DOCUMENTS hold, about SAMPLE_BYTES of all ``text_bytes``: of files, parts' beginnings."""
    if isinstance(documents, TextDocuments):
        chosen = documents.mapInArrow(_head(-(-SAMPLE_BYTES // documents.tasks)), DOCUMENTS)
    else:
        # Tasks that end before their input would leave its Arrow buffers in the JVM's memory.
        share = min(1.0, SAMPLE_BYTES / max(1, text_bytes))
        # Chosen by their ids: two jobs read the sample, and Spark's own differs with the order of the rows.
        chance = F.pmod(F.xxhash64(F.lit(1), "id"), F.lit(2**53)) / F.lit(float(2**53))
        chosen = documents.where(chance < share)
    row = chosen.agg(F.sum(F.octet_length("text"))).first()
    size = int((row and row[0]) or 0)
    total = max(size, text_bytes) if isinstance(documents, TextDocuments) else round(size / share)
    counted = vocabulary.count(encoded_pages.from_documents(chosen, config))
    number = F.floor(_BINS_PER_OCTAVE * F.log2("count"))
    bins = counted.groupBy(number.alias("bin")).agg(
        F.min("count").alias("least"), F.count("*").alias("distinct"), F.sum("count").alias("tokens")
    )
    rows = sorted((row["least"], row["distinct"], row["tokens"]) for row in bins.collect())
    return Sample(size, total, *np.array(rows, np.int64).reshape(-1, 3).T)


def _head(size: int) -> Table:
    def head(batches: Batches) -> Iterator[pa.RecordBatch]:
        remaining = size
        for batch in batches:
            sizes = pc.fill_null(pc.binary_length(batch.column("text")), 0).to_numpy(zero_copy_only=False)
            ends = np.cumsum(sizes, dtype=np.int64)
            rows = int(np.searchsorted(ends - sizes, remaining))
            yield batch.slice(0, rows)
            if rows < batch.num_rows or ends[-1] >= remaining:
                return
            remaining -= int(ends[-1])

    return head
