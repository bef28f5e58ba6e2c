from __future__ import annotations

import random
from collections import Counter

import pyarrow.parquet as pq
import pytest
from conftest import setting
from fake_run import FakeRun

from embedall_spark.corpus import encoded_pages, vocabulary
from embedall_spark.corpus.vocabulary import VocabularyConfig
from embedall_spark.errors import BadData
from embedall_spark.schemas import ENCODED, SEQUENCES, VOCABULARY


def sentences() -> list[list[str]]:
    draw = random.Random(1)
    # Many ties; \uffff comes before \U0001f600 in UTF-8 but after it in UTF-16, as Java keeps strings.
    words = [
        f"{letter}{number}" for letter in ("a", "Z", "é", "한", "ж", "\uffff", "\U0001f600") for number in range(40)
    ]
    return [[words[min(int(draw.paretovariate(0.3)), 279)] for _ in range(draw.randint(0, 30))] for _ in range(300)]


def ranked(data: list[list[str]], min_count: int) -> list[tuple[str, int]]:
    counts = Counter(word for sentence in data for word in sentence)
    rest = [(word, count) for word, count in counts.items() if count >= min_count]
    return sorted(rest, key=lambda pair: (-pair[1], pair[0].encode()))


def stored(folder: str) -> list[tuple[int, str, int]]:
    """Return a stage's rows in the order of its files' names and of the rows in them."""
    from pathlib import Path

    actual = []
    for part in sorted(Path(folder).glob("*.parquet")):
        actual += [(row["id"], row["token"], row["count"]) for row in pq.read_table(part).to_pylist()]
    return actual


@pytest.mark.parametrize("partitions", [1, 7])
def test_ranks_whatever_the_partitioning(spark, tmp_path, monkeypatch, partitions):
    data = sentences()
    # Without adaptive execution the order is spread over several files, as it is for a large vocabulary.
    if partitions > 1:
        monkeypatch.setattr(vocabulary, "_ONE_TASK_BYTES", 0)
    adaptive = str(partitions == 1).lower()
    with setting(spark, "spark.sql.adaptive.enabled", adaptive), setting(spark, "spark.sql.shuffle.partitions", "5"):
        run = FakeRun(spark, tmp_path)
        table = spark.createDataFrame(list(enumerate(data)), SEQUENCES).repartition(partitions)
        actual = vocabulary.build(run, encoded_pages.from_sequences(table), VocabularyConfig(min_count=2))
    expected = [(number, word, count) for number, (word, count) in enumerate(ranked(data, 2))]
    assert stored(run.stage_path("vocabulary")) == expected
    assert [(field.name, field.dataType) for field in actual.schema] == [(f.name, f.dataType) for f in VOCABULARY]
    assert vocabulary.total_tokens(actual) == sum(count for _, _, count in expected)
    assert partitions == 1 or len(list((tmp_path / "stages" / "vocabulary").glob("*.parquet"))) > 1

    encoded = vocabulary.encode(encoded_pages.from_sequences(table), run.stage_path("vocabulary"))
    ids = {word: number for number, word, _ in expected}
    assert encoded.schema.simpleString() == ENCODED.simpleString()
    assert {row["id"]: row["tokens"] for row in encoded.collect()} == {
        number: [ids[word] for word in sentence if word in ids] for number, sentence in enumerate(data)
    }


def test_at_most_max_vocabulary(spark, tmp_path):
    data = sentences()
    source = encoded_pages.from_sequences(spark.createDataFrame(list(enumerate(data)), SEQUENCES))
    run = FakeRun(spark, tmp_path)
    vocabulary.build(run, source, VocabularyConfig(min_count=1, max_vocabulary=10))
    assert [row[1:] for row in stored(run.stage_path("vocabulary"))] == ranked(data, 1)[:10]


def test_max_final_vocab_as_in_gensim(spark, tmp_path):
    from gensim.models import Word2Vec

    data = sentences()
    source = encoded_pages.from_sequences(spark.createDataFrame(list(enumerate(data)), SEQUENCES))
    for limit in (100, 279):
        model = Word2Vec(min_count=2, max_final_vocab=limit)
        model.build_vocab(data)
        run = FakeRun(spark, tmp_path / str(limit))
        vocabulary.build(run, source, VocabularyConfig(min_count=2, max_final_vocab=limit))
        words = [row[1] for row in stored(run.stage_path("vocabulary"))]
        # Words of the count at the limit are left out, all of them.
        assert 0 < len(words) < limit
        assert set(words) == set(model.wv.key_to_index)


def test_nothing_left(spark, tmp_path):
    source = encoded_pages.from_sequences(spark.createDataFrame([(1, ["a", "a", "a", "b"])], SEQUENCES))
    with pytest.raises(BadData, match=r"none of the tokens occurs 5 times \(vocabulary.min_count=5\).* has 3"):
        vocabulary.build(FakeRun(spark, tmp_path / "few"), source, VocabularyConfig(min_count=5))
    with pytest.raises(BadData, match="there are no tokens; give more input"):
        vocabulary.build(FakeRun(spark, tmp_path / "none"), source.limit(0), VocabularyConfig())
