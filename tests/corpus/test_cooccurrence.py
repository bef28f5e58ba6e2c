"""Co-occurrence counts against counting pair by pair in Python, for tables of any size and any partitioning."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from fake_run import FakeRun

from embedall_spark.corpus import blocking, cooccurrence
from embedall_spark.corpus.blocks import Block
from embedall_spark.corpus.cooccurrence import CELLS, CooccurrenceConfig
from embedall_spark.corpus.cooccurrence_counter import UNIT, CooccurrenceCounter
from embedall_spark.errors import BadData
from embedall_spark.schemas import ENCODED, VOCABULARY

TOKENS, WINDOW = 40, 5


@pytest.fixture(scope="module")
def sequences():
    random = np.random.default_rng(0)
    sizes = random.integers(2, 30, 60)
    return [np.minimum(random.zipf(1.3, size) - 1, TOKENS - 1).astype(np.int32) for size in sizes]


def expected(sequences, symmetric, weighted):
    pairs = Counter()
    for tokens in sequences:
        for i, right in enumerate(tokens.tolist()):
            for distance in range(1, min(WINDOW, i) + 1):
                left, weight = int(tokens[i - distance]), 1 / distance if weighted else 1
                pairs[left, right] += weight
                if symmetric:
                    pairs[right, left] += weight
    return pairs


def whole(sequences):
    offsets = np.concatenate([[0], np.cumsum([len(tokens) for tokens in sequences])])
    return Block(0, np.arange(len(sequences)), offsets, np.concatenate(sequences))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("max_product", "slots"), [(1, 64), (50, 64), (10**6, 1 << 12)])
def test_counter(sequences, symmetric, max_product, slots):
    counter = CooccurrenceCounter(
        TOKENS, WINDOW, symmetric=symmetric, distance_weighting=True, max_product=max_product, slots=slots
    )
    counted = Counter()
    drains = [*counter.add(whole(sequences)), *counter.drain()]
    for keys, counts in drains:
        for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
            counted[key >> 32, key & 0xFFFFFFFF] += count / UNIT
    assert (len(drains) > 3) == (max_product < TOKENS**2)
    pairs = expected(sequences, symmetric, True)
    kept = {pair: count for pair, count in pairs.items() if not symmetric or pair[0] <= pair[1]}
    assert counted.keys() == kept.keys()
    assert all(counted[pair] == pytest.approx(count, rel=1e-6) for pair, count in kept.items())
    assert all(not len(keys) for keys, _ in counter.drain())


def test_counter_refuses_a_table_that_is_too_small():
    with pytest.raises(ValueError, match="64 slots is too small for a window of 100"):
        CooccurrenceCounter(TOKENS, 100, symmetric=True, distance_weighting=True, slots=64)


def test_many_blocks_hold_each_cell_once_in_the_same_order(sequences):
    def cells(parts):
        counter = CooccurrenceCounter(TOKENS, WINDOW, symmetric=True, distance_weighting=True, slots=64)
        batches = []
        for part in parts:
            for keys, counts in [*counter.add(whole(part)), *counter.drain()]:
                batches += cooccurrence._cut(keys, counts, 7)
        pieces = pa.Table.from_batches(batches).sort_by("block")
        merged = list(cooccurrence._merge(0.0)(pieces.to_batches()))
        return pa.Table.from_batches(merged).to_pylist()

    rows = cells([sequences])
    assert [row["block"] for row in rows] == list(range(7))
    assert rows == cells([sequences[:17], sequences[17:40], sequences[40:]])


def test_both_orders_of_symmetric_cells():
    ids = [np.array(side, np.int32).tobytes() for side in ([1, 2], [1, 5])]
    row = [[3], *([side] for side in ids), [np.array([4, 0.5], np.float32).tobytes()], [2]]
    batch = pa.RecordBatch.from_arrays([pa.array(column) for column in row], CELLS.names)
    (cells,) = cooccurrence.unpack(batch, True)
    assert (cells.rows.tolist(), cells.columns.tolist()) == ([1, 2, 5], [1, 5, 2])
    assert cells.counts.tolist() == [4, 0.5, 0.5]
    (cells,) = cooccurrence.unpack(batch, False)
    assert cells.rows.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("pairs", "count"), [(1, 1), (1 << 16, 16), (1 << 24, 64), (1 << 30, 1024), (1 << 40, 1 << 16)]
)
def test_block_count(pairs, count):
    assert cooccurrence.block_count(pairs) == count


def test_table_and_minimum(spark, sequences, tmp_path):
    words = [(token, f"w{token}", 1) for token in range(TOKENS)]
    spark.createDataFrame(words, VOCABULARY).coalesce(1).write.parquet(f"{tmp_path}/vocabulary")
    encoded = spark.createDataFrame([(i, tokens.tolist()) for i, tokens in enumerate(sequences)], ENCODED)
    table = blocking.from_encoded(encoded, 3)
    config = CooccurrenceConfig(distance_weighting=False, min_count=3, table=f"{tmp_path}/table", names=True)
    run = FakeRun(spark, tmp_path)
    cooccurrence.build(run, table, f"{tmp_path}/vocabulary", WINDOW, config)
    pairs = expected(sequences, True, False)
    assert {(row.row, row.column): row["count"] for row in run.tables[config.table].collect()} == {
        (f"w{row}", f"w{column}"): count for (row, column), count in pairs.items() if count >= 3
    }
    with pytest.raises(BadData, match=r"lower vocabulary.min_count or train.glove.cooccurrence.min_count"):
        cooccurrence.build(
            FakeRun(spark, tmp_path / "none"), table, f"{tmp_path}/vocabulary", WINDOW,
            CooccurrenceConfig(min_count=1e6),
        )  # fmt: skip
