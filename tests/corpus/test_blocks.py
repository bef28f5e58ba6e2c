from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedall_spark.corpus import blocking, blocks, encoded_pages, packed_ints
from embedall_spark.corpus.blocks import Block
from embedall_spark.randomness import mix
from embedall_spark.schemas import ENCODED, SEQUENCES

WORDS = [f"w{number}" for number in range(50)] + ["é", "한글"]


def corpus() -> list[tuple[int, list[str]]]:
    """Ids of both signs, some twice; short and empty sequences; unknown words."""
    draw = random.Random(2)
    rows = []
    for _ in range(500):
        words = draw.choices([*WORDS, "unknown", "?"], k=draw.choice([0, 1, 2, 3, 5, 40]))
        rows.append((draw.randrange(-(2**63), 2**63) if draw.random() < 0.8 else draw.randrange(20), words))
    return rows


def write_vocabulary(folder: Path) -> str:
    folder.mkdir()
    ids = pa.array(range(len(WORDS)), pa.int32())
    pq.write_table(pa.table({"id": ids, "token": WORDS, "count": [9] * len(WORDS)}), folder / "part-0.parquet")
    return str(folder)


def rows(df) -> list[tuple]:
    return sorted(tuple(row) for row in df.select("block", "ids", "lengths", "tokens", "count").collect())


def brute(data: list[tuple[int, list[int]]], number: int) -> dict[int, list[tuple[int, list[int]]]]:
    actual: dict[int, list[tuple[int, list[int]]]] = {}
    for key, tokens in data:
        if len(tokens) > 1:
            actual.setdefault(mix(key) % number, []).append((key, tokens))
    order = {token: np.int32(token).tobytes() for token in range(len(WORDS))}
    for rest in actual.values():
        rest.sort(key=lambda pair: (pair[0], len(pair[1]), b"".join(order[token] for token in pair[1])))
        # Copies of an id get ids of their own.
        keys = [key for key, _ in rest]
        copies = [at - keys.index(key) for at, key in enumerate(keys)]
        rest[:] = [
            (signed(mix(key, copy)) if copy else key, tokens) for (key, tokens), copy in zip(rest, copies, strict=True)
        ]
    return actual


def signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def test_same_blocks_from_any_partitioning(spark, tmp_path):
    data, folder = corpus(), write_vocabulary(tmp_path / "v")
    table = spark.createDataFrame(data, SEQUENCES)
    partitioned = [encoded_pages.from_sequences(table.repartition(n)) for n in (1, 3, 7)]
    actual = [rows(blocking.from_pages(pages, folder, 13)) for pages in partitioned]
    assert actual[0] == actual[1] == actual[2]

    vocab = {word: number for number, word in enumerate(WORDS)}
    encoded = [(key, [vocab[word] for word in words if word in vocab]) for key, words in data]
    expected = brute(encoded, 13)
    assert [row[0] for row in actual[0]] == sorted(expected)
    for number, ids, lengths, tokens, count in actual[0]:
        assert np.frombuffer(ids, np.int64).tolist() == [key for key, _ in expected[number]]
        assert packed_ints.unpack(lengths).tolist() == [len(words) for _, words in expected[number]]
        assert packed_ints.unpack(tokens).tolist() == [word for _, words in expected[number] for word in words]
        assert count == len(packed_ints.unpack(tokens))

    table = blocking.from_encoded(spark.createDataFrame(encoded, ENCODED).repartition(2), 13)
    assert rows(table) == actual[0]
    rest = [words for _, words in encoded if len(words) > 1]
    assert blocks.total_size(table) == (sum(map(len, rest)), len(rest))
    assert table.schema.simpleString() == blocks.BLOCKS.simpleString()


def test_blocks_in_the_order_of_the_text(tmp_path, monkeypatch):
    data, folder = corpus(), write_vocabulary(tmp_path / "v")
    monkeypatch.setattr(blocks, "MIN_SIZE", 64)
    schema = pa.schema({"id": pa.int64(), "tokens": pa.list_(pa.string())})
    half = len(data) // 2
    batches = [
        pa.RecordBatch.from_arrays(list(zip(*part, strict=True)), schema=schema) for part in (data[:half], data[half:])
    ]
    pages = encoded_pages._pages_of_sequences(iter(batches))
    actual = [block for batch in blocking._cut_in_order(folder)(pages) for block in blocks.unpack(batch)]
    assert [block.number for block in actual] == list(range(len(actual))) and len(actual) > 3
    encoded = [(key, [WORDS.index(word) for word in words if word in WORDS]) for key, words in data]
    expected = [(key, tokens) for key, tokens in encoded if len(tokens) > 1]
    pieces = [np.split(block.tokens, block.offsets[1:-1]) for block in actual]
    ids = np.concatenate([block.ids for block in actual]).tolist()
    assert list(zip(ids, (part.tolist() for piece in pieces for part in piece), strict=True)) == expected
    assert max(len(block.tokens) for block in actual) < 64 + max(len(tokens) for _, tokens in expected)


def test_nothing_to_train_on(spark, tmp_path):
    folder = write_vocabulary(tmp_path / "v")
    table = spark.createDataFrame([(1, ["w1"]), (2, []), (3, ["?", "w2"])], SEQUENCES)
    actual = blocking.from_pages(encoded_pages.from_sequences(table), folder, 4)
    assert (actual.count(), blocks.total_size(actual)) == (0, (0, 0))


def test_unpack_gives_writable_arrays_and_batches_stay_small():
    ids, lengths = np.arange(40), np.full(40, 100_000)
    source = Block(-1, ids, np.concatenate([[0], np.cumsum(lengths)]), np.arange(4_000_000, dtype=np.int32))
    pieces = blocking._cut(source.ids, source.offsets, source.tokens, 10**6)
    batches = list(blocks.pack(blocks.unpack(pieces)))
    assert len(batches) > 1 and all(batch.nbytes < 2 * blocks._BATCH_BYTES for batch in batches)
    actual = [block for batch in batches for block in blocks.unpack(batch)]
    assert sorted(block.ids[0] for block in actual) == ids.tolist()
    for block in actual:
        assert block.number == mix(int(block.ids[0])) % 10**6
        start = block.ids[0] * 100_000
        assert block.offsets.tolist() == [0, 100_000]
        assert block.tokens[0] == start and block.tokens[-1] == start + 99_999
        block.tokens[0] = block.ids[0] = block.offsets[0] = 0


def test_merging_does_not_depend_on_the_pieces_order():
    draw = random.Random(4)
    pieces = []
    for _ in range(30):
        lengths = [draw.randint(2, 4) for _ in range(draw.randint(1, 5))]
        tokens = np.array([draw.randrange(2) for _ in range(sum(lengths))], np.int32)
        ids = np.array([draw.randrange(5) for _ in lengths], np.int64)
        pieces.append(Block(3, ids, np.concatenate([[0], np.cumsum(lengths)]), tokens))
    first = blocking._merge(pieces)
    for _ in range(5):
        draw.shuffle(pieces)
        again = blocking._merge(pieces)
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (0, 1),
        (5_000, 1),
        (100_000, 6),
        (1 << 20, 64),
        (4_000_000, 64),
        (17_000_000, 259),
        (10**9, 4096),
        (10**11, 381_470),
    ],
)
def test_number(total, expected):
    assert blocks.block_count(total) == expected


def test_blocks_have_16_to_256_thousand_tokens():
    totals = [int(1.1**power) for power in range(105, 300)]
    assert all(1 << 14 <= total / blocks.block_count(total) <= 1.01 * (1 << 18) for total in totals)
    assert all(blocks.block_count(total) >= 64 for total in totals if total >= 1 << 20)
