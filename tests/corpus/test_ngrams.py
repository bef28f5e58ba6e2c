"""N-grams of words: the same hashes as gensim's, and the index over a vocabulary."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gensim.models.fasttext import ft_ngram_hashes

from embedall_spark.corpus import ngrams
from embedall_spark.corpus.ngrams import Lengths, NgramIndex

WORDS = ["the", "a", "naïve", "мир", "서울", "𝄞", "e\u0301", "banana", "", "<>", "x" * 60, "of"]


@pytest.mark.parametrize("lengths", [(3, 6, 2_000_000), (1, 4, 97), (2, 2, 1000), (5, 64, 1 << 27)])
def test_the_hashes_are_those_of_gensim(lengths):
    offsets, buckets = ngrams.buckets_of(pa.array(WORDS), Lengths(*lengths))
    for index, word in enumerate(WORDS):
        assert buckets[offsets[index] : offsets[index + 1]].tolist() == ft_ngram_hashes(word, *lengths)


def test_the_index_numbers_the_buckets_that_occur(tmp_path):
    words = [word for word in WORDS if word]
    columns = {"id": np.arange(len(words), dtype=np.int32), "token": words, "count": np.full(len(words), 3)}
    pq.write_table(pa.table(columns), tmp_path / "part.parquet")
    index = NgramIndex.open(str(tmp_path), Lengths(2, 3, 50))
    assert (np.diff(index.buckets) > 0).all()
    assert set(index.rows) == set(range(len(index.buckets)))
    for number, word in enumerate(words):
        rows = index.rows[index.offsets[number] : index.offsets[number + 1]]
        assert index.buckets[rows].tolist() == ft_ngram_hashes(word, 2, 3, 50)
    assert len(NgramIndex.open(str(tmp_path), Lengths(2, 3, 60)).buckets) != len(index.buckets)


def test_estimates_of_an_english_vocabulary():
    # Measured on 4M tokens of Wikipedia: 31,770 words, 755,000 n-grams in 163,874 buckets.
    total, used = Lengths(3, 6, 2_000_000).estimate(31_770)
    assert total == pytest.approx(755_000, rel=0.1)
    assert used == pytest.approx(163_874, rel=0.1)
    assert Lengths(3, 6, 1000).estimate(31_770)[1] == 1000
    assert Lengths(3, 0, 1000).estimate(31_770) == (0, 0)
