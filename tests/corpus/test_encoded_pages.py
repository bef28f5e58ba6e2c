from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from embedall_spark.corpus import encoded_pages
from embedall_spark.corpus.tokenizer import Reject, Sequences, TokensConfig
from embedall_spark.schemas import DOCUMENTS, REJECTS, SEQUENCES

TEXTS = {
    1: "The cat sat on the mat.",
    2: "Съешь же ещё этих мягких французских булок",
    3: "키스의 고유조건은 입술끼리 만나야",
    -4: "cafe\u0301 don't re-use",
}


def words_of(batches: list[pa.RecordBatch]) -> dict[int, list[str]]:
    """Return the sequences in pages, and check that counts and distinct tokens agree with them."""
    actual = {}
    for page in (page for batch in batches for page in encoded_pages.read(batch)):
        words = page.tokens.take(pa.array(page.codes)).to_pylist()
        assert dict(zip(page.tokens.to_pylist(), page.counts.tolist(), strict=True)) == Counter(words)
        assert (page.ids.dtype, page.lengths.dtype, page.codes.dtype) == (np.int64, np.int32, np.int32)
        for key, length, end in zip(page.ids, page.lengths, np.cumsum(page.lengths), strict=True):
            actual[int(key)] = words[end - length : end]
    return actual


def test_documents_and_their_rejects(spark):
    rows = [(key, text, f"file-{key}", None) for key, text in TEXTS.items()]
    rows += [(5, None, "gone", "cannot be read: no such file"), (6, "", "void", None), (7, "  ", "blank", None)]
    table = spark.createDataFrame(rows, DOCUMENTS).repartition(2)
    actual = encoded_pages.from_documents(table, TokensConfig())
    assert actual.schema.simpleString() == encoded_pages.PAGES.simpleString()
    words = words_of(actual.toArrow().to_batches())
    assert sorted(words) == [-4, 1, 2, 3]
    assert words[1] == ["the", "cat", "sat", "on", "the", "mat"]
    assert words[3] == TEXTS[3].split()
    assert words[2][0] == "съешь"
    # Rows with nothing in them count neither as refused nor as read.
    assert encoded_pages.reject_counts(actual) == (1, 5)
    refused = encoded_pages.rejects(actual)
    assert refused.columns == REJECTS.names[:3]
    assert sorted(row["origin"] for row in refused.collect()) == ["blank", "gone", "void"]
    assert encoded_pages.reject_counts(actual.limit(0)) == (0, 0)


def test_sequences(spark):
    data = {1: ["b", "a", "b"], 2: [], -3: ["é"], 4: ["a"] * 50}
    table = spark.createDataFrame(list(data.items()), SEQUENCES)
    assert words_of(encoded_pages.from_sequences(table).toArrow().to_batches()) == data


def documents(texts: list[str | None]) -> pa.RecordBatch:
    columns = [
        pa.array(range(len(texts)), pa.int64()),
        pa.array(texts, pa.string()),
        pa.nulls(len(texts), pa.string()),
        pa.nulls(len(texts), pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, names=["id", "text", "origin", "problem"])


def test_pages_end_when_they_are_full(monkeypatch):
    monkeypatch.setattr(encoded_pages, "PAGE_TOKENS", 1000)
    monkeypatch.setattr(encoded_pages, "_SLICE_BYTES", 500)
    texts = [" ".join(f"w{number % 97}x{at}" for at in range(20)) for number in range(400)]
    result = list(
        encoded_pages._pages_of_documents(TokensConfig())(iter([documents(texts[:150]), documents(texts[150:])]))
    )
    sizes = [len(page.codes) for batch in result for page in encoded_pages.read(batch)]
    # A page ends after the slice that fills it.
    assert sum(sizes) == 8000 and all(1000 <= size < 1000 + 200 for size in sizes[:-1])
    assert sum(page.seen for batch in result for page in encoded_pages.read(batch)) == 400


def test_page_of_rejects_only(monkeypatch):
    monkeypatch.setattr(encoded_pages, "_MAX_REJECTS", 3)
    result = list(encoded_pages._pages_of_documents(TokensConfig())(iter([documents([""] * 4), documents([None] * 2)])))
    actual = [page for batch in result for page in encoded_pages.read(batch)]
    assert [(page.seen, len(page.rejects), len(page.codes)) for page in actual] == [(4, 4, 0), (2, 2, 0)]
    assert list(encoded_pages._pages_of_documents(TokensConfig())(iter([]))) == []


@pytest.mark.parametrize("sizes", [[], [0, 0], [3], [900, 1, 5], [100] * 30, [0, 500, 0, 499, 2]])
def test_slices_keep_all_rows_in_order(monkeypatch, sizes):
    monkeypatch.setattr(encoded_pages, "_SLICE_BYTES", 500)
    batch = documents([None, *("x" * size for size in sizes)]).slice(1)
    parts = list(encoded_pages._slices(batch))
    assert [key for part in parts for key in part.column("id").to_pylist()] == list(range(1, len(sizes) + 1))
    for part in parts:
        lengths = [len(text) for text in part.column("text").to_pylist()]
        assert sum(lengths[:-1]) <= 500


def test_written_and_read_back():
    part = Sequences(np.array([7, -1]), np.array([0, 2, 3]), pa.array(["b", "a", "b"]))
    page = encoded_pages.encode([part, part], seen=9, rejects=[Reject("o", "r", None)])
    assert page.tokens.to_pylist() == ["b", "a"] and page.codes.tolist() == [0, 1, 0, 0, 1, 0]
    (again,) = encoded_pages.read(encoded_pages.write(page))
    assert all(np.array_equal(a, b) for a, b in zip(page, again, strict=True))
    again.codes[0] = 1
    (less,) = encoded_pages.read(encoded_pages.write(page).select(["codes", "tokens", "token_lengths"]))
    assert less.codes.tolist() == page.codes.tolist() and len(less.ids) == len(less.counts) == less.seen == 0


def test_a_page_of_an_earlier_version_is_read():
    part = Sequences(np.array([7, -1]), np.array([0, 2, 3]), pa.array(["b", "a", "b"]))
    page = encoded_pages.encode([part])
    batch = encoded_pages.write(page)
    plain = {
        "lengths": page.lengths,
        "codes": page.codes,
        "token_lengths": np.array([1, 1], np.int32),
        "counts": page.counts,
    }
    for name, values in plain.items():
        column = pa.array([values.tobytes()], pa.binary())
        batch = batch.set_column(batch.schema.get_field_index(name), name, column)
    (again,) = encoded_pages.read(batch)
    assert all(np.array_equal(a, b) for a, b in zip(page, again, strict=True))
