from __future__ import annotations

import itertools
import multiprocessing
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedall_spark import files
from embedall_spark.corpus import hash_table, vocabulary_index
from embedall_spark.corpus.vocabulary_index import VocabularyIndex
from embedall_spark.errors import BadData


@pytest.fixture(autouse=True)
def local_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(tmp_path / "local"))


def words(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    alphabets = ["abc", "defghijklmnopqrstuvwxyz-'", "абвгдё", "가나다라마", "e\u0301o\u0308", "\U0001f600\x00"]
    actual: dict[str, None] = {}
    while len(actual) < count:
        actual["".join(draw.choices(draw.choice(alphabets), k=draw.randint(1, 9)))] = None
    return list(actual)


def write(folder, tokens: list[str], parts: int = 3, row_group: int = 700) -> str:
    folder.mkdir(exist_ok=True)
    for number, ids in enumerate(np.array_split(np.arange(len(tokens)), parts)):
        table = pa.table(
            {
                "id": pa.array(ids, pa.int32()),
                "token": pa.array([tokens[i] for i in ids], pa.string()),
                "count": pa.array(10_000_000_000 - ids),
            }
        )
        pq.write_table(table, folder / f"part-{number:05d}-x.parquet", row_group_size=row_group)
    (folder / "_SUCCESS").touch()
    return str(folder)


def test_agrees_with_a_dict(tmp_path):
    vocab, unknown = words(5000, 1), ["", "zzz-never", "\ud55c\uae00", *words(3000, 2)]
    opened = VocabularyIndex.open(write(tmp_path / "v", vocab))
    reference = {token: number for number, token in enumerate(vocab)}
    queries = vocab + unknown
    random.Random(3).shuffle(queries)
    assert opened.size == 5000
    assert opened.ids(pa.array(queries)).tolist() == [reference.get(token, -1) for token in queries]
    assert opened.counts.tolist() == [10_000_000_000 - number for number in range(5000)]
    assert opened.tokens(np.arange(5000)).to_pylist() == vocab
    assert opened.tokens(np.array([7, 7, 0], np.int32)).to_pylist() == [
        vocab[7],
        vocab[7],
        vocab[0],
    ]


def test_slices_large_strings_and_nothing(tmp_path):
    vocab = words(100, 4)
    opened = VocabularyIndex.open(write(tmp_path / "v", vocab))
    assert opened.ids(pa.array(["?", *vocab])[50:60]).tolist() == list(range(49, 59))
    assert opened.ids(pa.array(vocab, pa.large_string())[3:]).tolist() == list(range(3, 100))
    assert opened.ids(pa.array([], pa.string())).tolist() == []
    assert opened.tokens(np.array([], np.int32)).to_pylist() == []
    with pytest.raises(IndexError, match=r"0\.\.99"):
        opened.tokens(np.array([100]))


def test_collisions_in_a_table_with_one_free_slot():
    tokens = words(255, 5)
    text, offsets = vocabulary_index.string_buffers(pa.array(tokens))
    slots = np.zeros(2 * 256, np.uint64)
    hash_table.build(slots, text, offsets)
    assert sorted((slots[1::2] & 0xFFFFFFFF).tolist()) == list(range(256))
    queries, asked_offsets = vocabulary_index.string_buffers(pa.array([*tokens, "not there", ""]))
    actual = np.empty(257, np.int32)
    hash_table.lookup(slots, text, offsets, queries, asked_offsets, actual)
    assert actual.tolist() == [*range(255), -1, -1]


def test_hash_spreads_over_slots():
    # 50,000 keys in 65,536 slots: chi-square over 256 groups of neighboring slots, 255 degrees of freedom.
    tokens = [f"{prefix}{number}" for prefix in ("a", "a_longer_word_") for number in range(25_000)]
    text, offsets = vocabulary_index.string_buffers(pa.array(tokens))
    table = np.zeros(2 * 65_536, np.uint64)
    bounds = itertools.pairwise(offsets)
    slots = [hash_table.first_slot(table, np.uint64(hash_table.key_of(text, a, b)), b - a) for a, b in bounds]
    seen = np.bincount(np.array(slots) // 256, minlength=256)
    assert ((seen - seen.mean()) ** 2 / seen.mean()).sum() < 255 + 5 * (2 * 255) ** 0.5


def test_one_copy_a_host_and_a_new_one_when_the_folder_changes(tmp_path):
    folder = write(tmp_path / "v", ["a", "b"], parts=1)
    first = VocabularyIndex.open(folder)
    assert VocabularyIndex.open(folder) is first
    write(tmp_path / "v", ["a", "b", "cc"], parts=1)
    assert VocabularyIndex.open(folder).ids(pa.array(["cc", "a"])).tolist() == [2, 0]
    assert first.ids(pa.array(["cc", "a"])).tolist() == [-1, 0]
    assert len(list(files.scratch("token-index").iterdir())) == 2


def _open_size(folder: str) -> int:
    return VocabularyIndex.open(folder).size


def test_processes_share_one_copy(tmp_path):
    folder = write(tmp_path / "v", words(2000, 6))
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(_open_size, [folder] * 8) == [2000] * 8
    (home,) = files.scratch("token-index").iterdir()
    assert sorted(path.name for path in home.iterdir()) == [".lock", "ready"]


def test_bad_folders(tmp_path):
    with pytest.raises(BadData, match="found none"):
        VocabularyIndex.open(str(tmp_path / "absent"))
    folder = write(tmp_path / "gap", ["a", "b", "c"])
    (tmp_path / "gap" / "part-00001-x.parquet").unlink()
    with pytest.raises(BadData, match="need ids 1, 2"):
        VocabularyIndex.open(folder)
    home = next(path for path in files.scratch("token-index").iterdir())
    assert [path.name for path in home.iterdir()] == [".lock"]


def test_empty_vocabulary(tmp_path):
    opened = VocabularyIndex.open(write(tmp_path / "v", [], parts=1))
    assert opened.size == 0
    assert opened.ids(pa.array(["a"])).tolist() == [-1]
