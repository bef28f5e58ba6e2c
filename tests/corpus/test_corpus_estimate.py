from __future__ import annotations

import numpy as np
import pytest

from embedall_spark.corpus import corpus_estimate
from embedall_spark.corpus.corpus_estimate import Sample
from embedall_spark.corpus.tokenizer import TokensConfig
from embedall_spark.schemas import DOCUMENTS
from embedall_spark.sources.text import TextConfig, open_documents


def drawn(probabilities: np.ndarray, tokens: int) -> np.ndarray:
    counts = np.random.default_rng(tokens).multinomial(tokens, probabilities / probabilities.sum())
    return counts[counts > 0]


def sample_of(counts: np.ndarray) -> Sample:
    least, place = np.unique(counts, return_inverse=True)
    return Sample(1, 100, least, np.bincount(place), np.bincount(place, counts).astype(np.int64))


@pytest.mark.parametrize(("exponent", "types"), [(1.0, 300_000), (1.0, 10_000_000), (1.4, 3_000_000)])
def test_the_vocabulary_of_a_corpus_a_hundred_times_as_large_as_the_sample(exponent, types):
    probabilities = 1 / (2.7 + np.arange(types)) ** exponent
    sample = sample_of(drawn(probabilities, 500_000))
    whole = drawn(probabilities, 50_000_000)
    for min_count in (1, 5, 50):
        actual = (whole >= min_count).sum()
        assert actual / 1.3 < sample.vocabulary(5e7, min_count) < actual * 1.3, min_count
    assert sample.vocabulary(1, 3) == (drawn(probabilities, 500_000) >= 3).sum()


def test_subsampling_and_a_sample_of_one_word():
    counts = drawn(1 / (1.0 + np.arange(1000)), 100_000)
    kept = np.minimum(1, np.sqrt(1e-3 * 1e5 / counts) + 1e-3 * 1e5 / counts) @ counts / 1e5
    assert sample_of(counts).kept(1e-3) == pytest.approx(kept)
    assert sample_of(counts).kept(0) == 1
    assert sample_of(np.array([1])).vocabulary(1000, 5) >= 0
    empty = sample_of(np.array([], np.int64))
    assert (empty.vocabulary(1000, 5), empty.kept(1e-3)) == (0, 1)


def test_a_sample_of_a_table_and_of_files(spark, tmp_path, monkeypatch):
    rows = [(number, f"Word{number % 7} and the rest", "file", None) for number in range(4000)]
    rows.append((4001, None, "file", "null"))
    documents = spark.createDataFrame(rows, DOCUMENTS).repartition(4)
    whole = corpus_estimate.sample(documents, TokensConfig(), 0)
    assert whole.text_bytes == whole.all_bytes == 18 * 4000
    assert whole.total_tokens() == 16_000 and whole.distinct.sum() == 10
    assert whole.vocabulary(16_000, 4000) == 3
    monkeypatch.setattr(corpus_estimate, "SAMPLE_BYTES", 9000)
    part = corpus_estimate.sample(documents, TokensConfig(), 72_000)
    assert 5000 < part.text_bytes < 13_000
    assert part.total_tokens() == part.text_bytes * 8 * 4 // 18
    for number in range(2):
        text = "".join(f"{row[1]}\n" for row in rows[number:4000:2])
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    files = corpus_estimate.sample(open_documents(spark, TextConfig(path=str(tmp_path))), TokensConfig(), 76_000)
    assert 9000 <= files.text_bytes <= 9000 + 2 * 18
    assert files.total_tokens() == round(files.tokens.sum() * 76_000 / files.text_bytes)
