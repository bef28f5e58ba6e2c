from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from embedall_spark.corpus import hash_table, token_counter
from embedall_spark.corpus.token_counter import TokenCounter


def texts(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    odd = ["", "0", "-0", "+1", "1", "01", "1.0", "1 ", "\u0661", "нет", "\U0001f600\x00", "\U0001f600"]
    return [draw.choice([draw.choice(odd), str(min(int(draw.paretovariate(0.3)), 10**9))]) for _ in range(count)]


@pytest.mark.parametrize(("tokens", "size"), [(1 << 16, 1 << 20), (16, 16), (1, 1)])
def test_numbers_by_first_occurrence_whatever_the_room(tokens, size):
    source = [f"{text}{'longer than a key' * (len(text) % 3 == 0)}" for text in texts(20_000, 4)]
    table, codes = TokenCounter(tokens, size), []
    for start in range(0, len(source), 3000):
        codes += table.add(pa.array(["left out", *source[start : start + 3000]])[1:]).tolist()
    distinct, counts = table.totals()
    numbers = {text: number for number, text in enumerate(dict.fromkeys(source))}
    assert distinct.to_pylist() == list(numbers)
    assert codes == [numbers[text] for text in source]
    assert dict(zip(distinct.to_pylist(), counts.tolist(), strict=True)) == Counter(source)
    assert table.is_full == (tokens < 1 << 16)


def test_texts_that_count_several_times():
    table = TokenCounter(1 << 10, 1 << 10)
    for texts_, times in ((["a", "b", "a"], [3, 1 << 40, 4]), (["b", "c"], [1, 0])):
        table.add(pa.array(texts_), np.array(times))
    (batch,) = table.flush()
    assert batch.to_pydict() == {"token": ["a", "b", "c"], "count": [7, (1 << 40) + 1, 0]}
    assert not list(table.flush())
    assert table.pack().num_rows == 0


def test_packed_counts_are_merged_bucket_by_bucket():
    packed, expected = [], Counter()
    for seed in range(4):
        source = [*texts(5000, seed), *(f"word {number}" for number in range(seed, 3000))]
        table = TokenCounter(1 << 4, 1 << 4)
        table.add(pa.array(source))
        packed.append(table.pack())
        expected.update(source)
        assert len(table.totals()[0]) == 0
    shuffled = pa.Table.from_batches(packed).sort_by("bucket")
    assert set(shuffled["bucket"].to_pylist()) == set(range(hash_table.BUCKETS))
    rows = [row for batch in token_counter._merge(iter(shuffled.to_batches())) for row in batch.to_pylist()]
    assert {row["token"]: row["count"] for row in rows} == expected
    assert len(rows) == len(expected)


def test_all_columns_of_a_table(spark):
    rows = list(zip(texts(500, 2), texts(500, 3), strict=True))
    actual = token_counter.count_texts(spark.createDataFrame(rows, "a string, b string").repartition(3))
    assert actual.schema.simpleString() == "struct<token:string,count:bigint>"
    assert {row["token"]: row["count"] for row in actual.collect()} == Counter(text for row in rows for text in row)
