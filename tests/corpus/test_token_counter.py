from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from embedall_spark.corpus import token_counter
from embedall_spark.corpus.token_counter import TokenCounter


def texts(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    odd = ["", "0", "-0", "+1", "1", "01", "1.0", "1 ", "\u0661", "нет", "\U0001f600\x00", "\U0001f600"]
    return [draw.choice([draw.choice(odd), str(min(int(draw.paretovariate(0.3)), 10**9))]) for _ in range(count)]


@pytest.mark.parametrize(("tokens", "size"), [(1 << 16, 1 << 20), (512, 1 << 20), (1 << 16, 5000), (1, 1)])
def test_counts_whatever_the_room(tokens, size):
    source = texts(20_000, 1)
    table, actual, most = TokenCounter(tokens, size), Counter(), 0
    for start in range(0, len(source), 3000):
        column = pa.array(["left out", *source[start : start + 3000]])[1:]
        for batch in [*table.add(column), *(table.flush() if start == 9000 else [])]:
            most = max(most, batch.num_rows)
            actual.update(dict(zip(batch.column("token").to_pylist(), batch.column("count").to_pylist(), strict=True)))
    for batch in table.flush():
        most = max(most, batch.num_rows)
        actual.update(dict(zip(batch.column("token").to_pylist(), batch.column("count").to_pylist(), strict=True)))
    assert actual == Counter(source)
    assert most <= tokens


def test_texts_that_count_several_times():
    table, actual = TokenCounter(1 << 10, 1 << 10), Counter()
    for texts_, times in ((["a", "b", "a"], [3, 1 << 40, 4]), (["b", "c"], [1, 0])):
        for batch in table.add(pa.array(texts_), np.array(times)):
            actual.update(dict(zip(*batch.to_pydict().values(), strict=True)))
    for batch in table.flush():
        actual.update(dict(zip(*batch.to_pydict().values(), strict=True)))
    assert actual == {"a": 7, "b": (1 << 40) + 1, "c": 0}


def test_all_columns_of_a_table(spark):
    rows = list(zip(texts(500, 2), texts(500, 3), strict=True))
    actual = token_counter.count_texts(spark.createDataFrame(rows, "a string, b string").repartition(3))
    assert actual.schema.simpleString() == "struct<token:string,count:bigint>"
    assert {row["token"]: row["count"] for row in actual.collect()} == Counter(text for row in rows for text in row)
