"""Phrases: adjacent tokens that occur together more often than by chance become one token.

Mikolov et al. 2013, "Distributed Representations of Words and Phrases and their Compositionality", section 4, with the
scores and the joining of gensim's ``Phrases``.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark import list_offsets
from embedall_spark.config import Section
from embedall_spark.corpus import encoded_pages
from embedall_spark.corpus.vocabulary_index import VocabularyIndex

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.corpus.encoded_pages import Batches, Page, Table
    from embedall_spark.run_context import Run

log = logging.getLogger(__name__)
_ROWS = 1 << 16
_COUNTED = T.StructType(
    [
        T.StructField("first", T.StringType(), False),
        T.StructField("second", T.StringType(), True, {"comment": "null where the row counts a single token"}),
        T.StructField("count", T.LongType(), False),
    ]
)


class PhrasesConfig(Section):
    """Joining adjacent tokens into phrases, under gensim's names."""

    passes: int = Field(0, ge=0, le=8, description="how often to join; twice gives phrases of up to four tokens")
    min_count: int = Field(5, ge=1, description="pairs must occur more often to score above 0")
    threshold: float = Field(10.0, gt=0, description="least score of a phrase; higher gives fewer phrases")
    delimiter: str = Field("_", min_length=1, description="text between the joined tokens")


def join_phrases(run: Run, pages: DataFrame, config: PhrasesConfig) -> DataFrame:
    """Return PAGES with phrases joined, in one pass after the other; each pass is a stage of the run."""
    for number in range(1, config.passes + 1):
        pages = _pass(run, pages, config, number)
    return pages


def _pass(run: Run, pages: DataFrame, config: PhrasesConfig, number: int) -> DataFrame:
    log.info("phrases: pass %d joins %d pairs of tokens", number, learn(run, pages, config, number).count())
    folder = run.stage_path(f"phrases-{number}-accepted")
    return run.stage(f"phrases-{number}", lambda: join(pages, folder, config))


def learn(run: Run, pages: DataFrame, config: PhrasesConfig, number: int) -> DataFrame:
    """Return the pairs to join as the stage "phrases-NUMBER-accepted": VOCABULARY columns, phrase and score.

    ``token`` is the pair as ``_keys`` writes it. The score of a pair is (count of the phrase - min_count) * size of the
    vocabulary / count of its first token / count of its second. As in gensim the vocabulary consists of the single
    tokens and of all joined pairs, and a token that is spelled like a joined pair counts with it.
    """
    counted = run.stage(f"phrases-{number}-counted", lambda: _counted(pages))
    return run.stage(f"phrases-{number}-accepted", lambda: _accepted(counted, config))


def join(pages: DataFrame, folder: str, config: PhrasesConfig) -> DataFrame:
    """Return PAGES with the pairs of learn()'s stage in ``folder`` joined, from left to right, each token used once."""
    return pages.mapInArrow(_joining(folder, config.delimiter), encoded_pages.PAGES)


def _counted(pages: DataFrame) -> DataFrame:
    """Return the counts of tokens and of pairs of adjacent tokens."""
    counts = pages.select("lengths", "codes", "tokens", "token_lengths", "counts").mapInArrow(_count_pages, _COUNTED)
    return counts.groupBy("first", "second").agg(F.sum("count").alias("count"))


def _accepted(counted: DataFrame, config: PhrasesConfig) -> DataFrame:
    phrase = F.concat("first", F.lit(config.delimiter), "second")
    vocabulary = (
        counted.select(F.coalesce(phrase, "first").alias("token"), "count")
        .groupBy("token")
        .agg(F.sum("count").alias("count"))
    )
    size = vocabulary.count()

    def counts(name: str) -> DataFrame:
        return vocabulary.select(F.col("token").alias(name), F.col("count").alias(f"{name}_count"))

    # Most pairs are rare, and their score is not above 0: they are dropped before the two larger joins.
    pairs = (
        counted.where(F.col("second").isNotNull())
        .select("first", "second", phrase.alias("phrase"))
        .join(counts("phrase").where(F.col("phrase_count") > config.min_count), "phrase")
        .join(counts("first"), "first")
        .join(counts("second"), "second")
    )
    above = (F.col("phrase_count") - config.min_count).cast("double")
    chance = F.col("first_count").cast("double") * F.col("second_count").cast("double")
    # As _keys() writes it.
    key = F.concat(F.octet_length("first").cast("string"), F.lit(" "), "first", "second")
    scored = pairs.withColumn("score", above / chance * F.lit(float(size)))
    return (
        scored.where(F.col("score") > config.threshold)
        .select(key.alias("token"), F.col("phrase_count").alias("count"), "phrase", "score")
        # An index needs ids in order, so they go into one file; few pairs are accepted of those that were counted.
        .repartition(1)
        .select(F.monotonically_increasing_id().cast("int").alias("id"), "token", "count", "phrase", "score")
    )


def _count_pages(batches: Batches) -> Batches:
    for batch in batches:
        for page in encoded_pages.read(batch):
            yield from _rows(page.tokens, pa.nulls(len(page.tokens), pa.string()), page.counts)
            pairs, counts = np.unique(_pairs(page)[1], return_counts=True)
            yield from _rows(*_halves(page, pairs), counts)


def _rows(first: pa.StringArray, second: pa.StringArray, counts: NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
    whole = pa.RecordBatch.from_arrays([first, second, pa.array(counts)], names=_COUNTED.names)
    for start in range(0, whole.num_rows, _ROWS):
        yield whole.slice(start, _ROWS)


def _joining(folder: str, delimiter: str) -> Table:
    def joined(batches: Batches) -> Batches:
        accepted = VocabularyIndex.open(folder)
        for batch in batches:
            for page in encoded_pages.read(batch):
                yield encoded_pages.write(_join(page, accepted, delimiter))

    return joined


def _join(page: Page, accepted: VocabularyIndex, delimiter: str) -> Page:
    positions, pairs = _pairs(page)
    distinct, pair_of = np.unique(pairs, return_inverse=True)
    is_phrase = accepted.ids(_keys(*_halves(page, distinct))) >= 0
    # Positions at which a pair begins that may be joined. In a run of them every second one is joined: the one between
    # would use a token twice.
    may_join = np.zeros(len(page.codes) + 1, bool)
    may_join[positions] = is_phrase[pair_of]
    start = np.flatnonzero(may_join & ~np.roll(may_join, 1))
    run = np.zeros(len(may_join), np.int64)
    run[start] = np.diff(start, prepend=0)
    joins = np.flatnonzero(may_join & ((np.arange(len(may_join)) - np.cumsum(run)) % 2 == 0))
    # The new tokens come after the page's; a phrase may be spelled like a token or like another phrase.
    phrase = np.cumsum(is_phrase) - 1 + len(page.tokens)
    codes = page.codes.astype(np.int64)
    codes[joins] = phrase[pair_of[np.searchsorted(positions, joins)]]
    remains = np.ones(len(codes), bool)
    remains[joins + 1] = False
    joined = pc.binary_join_element_wise(*_halves(page, distinct[is_phrase]), delimiter)
    spelled = pa.concat_arrays([page.tokens, joined]).dictionary_encode()
    used, recoded = np.unique(spelled.indices.to_numpy()[codes[remains]], return_inverse=True)
    before = list_offsets.from_lengths(remains)
    lengths = np.diff(before[np.cumsum(page.lengths, dtype=np.int64)], prepend=0)
    return page._replace(
        lengths=lengths.astype(np.int32),
        codes=recoded.astype(np.int32),
        tokens=spelled.dictionary.take(pa.array(used)),
        counts=np.bincount(recoded, minlength=len(used)).astype(np.int64),
    )


def _pairs(page: Page) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of pairs of adjacent tokens, and each pair as first code * number of tokens + second."""
    followed = np.ones(len(page.codes), bool)
    followed[np.cumsum(page.lengths, dtype=np.int64)[page.lengths > 0] - 1] = False
    positions = np.flatnonzero(followed)
    return positions, page.codes[positions].astype(np.int64) * len(page.tokens) + page.codes[positions + 1]


def _halves(page: Page, pairs: NDArray[np.int64]) -> tuple[pa.StringArray, pa.StringArray]:
    """Return the first and the second tokens of pairs of codes."""
    first, second = np.divmod(pairs, max(1, len(page.tokens)))
    return page.tokens.take(pa.array(first)), page.tokens.take(pa.array(second))


def _keys(first: pa.StringArray, second: pa.StringArray) -> pa.StringArray:
    """Return one string per pair, which no other pair has, whatever characters the tokens consist of."""
    sizes = pc.binary_length(first).cast(pa.string())
    return pc.binary_join_element_wise(pc.binary_join_element_wise(sizes, first, " "), second, "")
