"""What is kept of an input from run to run, against reading all of it from scratch."""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from fake_run import FakeRun
from pydantic import ValidationError

from embedall_spark.corpus import encoded_pages, increments, vocabulary
from embedall_spark.kinds import nodes, words
from embedall_spark.sources import input_files
from embedall_spark.sources.text import TextConfig


def config_of(path, **options):
    output = {"table": "none"}
    return words.Config(input={"path": str(path), "incremental": True, **options}, output=output)


def tokenize(spark, folder, config, name):
    """Return the run, its pages and the counts of their tokens."""
    run = FakeRun(spark, folder / name)
    run.id = name
    pages, counts = words._tokenize(run, words.read(spark, config), config)
    return run, pages, vocabulary.count(pages) if counts is None else counts


def ingest(spark, folder, config, name):
    """Return counts of the tokens, the sequences, of which blocks are a function, and what was reused."""
    run, pages, counts = tokenize(spark, folder, config, name)
    sequences = []
    for page in (page for batch in pages.toArrow().to_batches() for page in encoded_pages.read(batch)):
        tokens = page.tokens.take(pa.array(page.codes)).to_pylist()
        ends = np.cumsum(page.lengths).tolist()
        sequences += [(key, tokens[start:stop]) for key, start, stop in zip(page.ids, [0, *ends], ends, strict=False)]
        assert dict(zip(page.tokens.to_pylist(), page.counts.tolist(), strict=True)) == Counter(tokens)
    return {row["token"]: row["count"] for row in counts.collect()}, sorted(sequences), run.facts.get("reused")


def compare(spark, folder, config, name):
    """Ingest an input in increments and from scratch, hold both to be the same, and return what was reused."""
    counts, sequences, reused = ingest(spark, folder, config, name)
    whole = config.model_copy(update={"input": config.input.model_copy(update={"incremental": False})})
    assert (counts, sequences) == ingest(spark, folder, whole, f"{name}-whole")[:2]
    assert sequences
    return reused


def test_files(spark, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in "abc":
        (corpus / f"{name}.txt").write_text("".join(f"{name} {word} same words\n" for word in ("x", "y", "z")))
    config = config_of(corpus)
    run, *_ = tokenize(spark, tmp_path, config, "run-1")
    assert run.facts["reused"] == {"files": 3, "files_reused": 0, "files_vanished": 0}
    (corpus / "d {1},[2].txt").write_text("new words of a file\n")
    (corpus / "e.txt").write_text("and of another\n")
    # The size is the same.
    (corpus / "b.txt").write_text((corpus / "b.txt").read_text().replace("same", "else"))
    os.utime(corpus / "b.txt", ns=(1, 1))
    (corpus / "c.txt").unlink()
    assert compare(spark, tmp_path, config, "run-2") == {"files": 4, "files_reused": 1, "files_vanished": 2}
    (corpus / "f.txt").write_text("later\n")
    run, _, counts = tokenize(spark, tmp_path, config, "run-3")
    assert run.facts["reused"] == {"files": 5, "files_reused": 4, "files_vanished": 0}
    assert counts.where("token = 'later'").count() == 1
    # A run that is resumed reads what it read before, whatever has happened since.
    assert tokenize(spark, tmp_path, config, "run-2")[2].where("token = 'later'").isEmpty()
    update = increments._Update(run, config.input, None, "", None)
    stamps = {origin: increments._stamp(file) for origin, file in update._listed().items()}
    (corpus / "g.txt").write_text("arrives while others are read\n")
    assert [origin[-5:] for origin, stamp in update._certain(stamps).items() if stamp is None] == ["g.txt"]
    (kept,) = tmp_path.glob("kept-*")
    assert {path.stem for path in kept.glob("*.json")} == {"run-2", "run-3"}
    assert all(path.name.startswith(("run-2", "run-3")) for path in kept.iterdir())


def test_the_changes_of_a_table_and_deleted_documents(spark, tmp_path):
    path, gone = f"{tmp_path}/documents", f"{tmp_path}/gone"
    spark.sql(f"CREATE TABLE delta.`{path}` (key STRING, text STRING) USING delta "
              "TBLPROPERTIES (delta.enableChangeDataFeed = true)")  # fmt: skip

    def insert(first, last):
        rows = f"SELECT 'k' || id, 'word' || id || ' same text' FROM range({first}, {last})"
        spark.sql(f"INSERT INTO delta.`{path}` {rows}")

    insert(0, 20)
    spark.createDataFrame([("k3",), ("k4",)], "key string").write.format("delta").save(gone)
    config = config_of(path, format="delta", id_column="key", deleted=gone)
    run, *_ = tokenize(spark, tmp_path, config, "run-1")
    assert run.facts["reused"] == {"since_version": None}
    insert(20, 25)
    spark.sql(f"UPDATE delta.`{path}` SET text = 'other text' WHERE key IN ('k1', 'k24')")
    spark.sql(f"DELETE FROM delta.`{path}` WHERE key IN ('k2', 'k23')")
    reused = compare(spark, tmp_path, config, "run-2")
    assert reused == {"since_version": 1, "changes": 5 + 4 + 2}
    # One of two rows with the same id is deleted: which one it was cannot be told, and all is read.
    insert(24, 26)
    spark.sql(f"DELETE FROM delta.`{path}` WHERE text = 'other text' AND key = 'k24'")
    run, *_ = tokenize(spark, tmp_path, config, "run-3")
    assert run.facts["reused"] == {"since_version": None}


def test_deleted_edges(spark, tmp_path):
    path = f"{tmp_path}/edges"
    spark.sql(f"CREATE TABLE delta.`{path}` (src INT, dst INT) USING delta "
              "TBLPROPERTIES (delta.enableChangeDataFeed = true)")  # fmt: skip
    spark.sql(f"INSERT INTO delta.`{path}` SELECT id % 5, id FROM range(12)")
    spark.sql(f"INSERT INTO delta.`{path}` VALUES (0, 5)")
    config = nodes.Config(input={"path": path, "format": "delta", "incremental": True}, output={"table": "none"})

    def edges(name):
        run = FakeRun(spark, tmp_path / name)
        run.id = name
        return sorted((row.src, row.dst, row.origin) for row in nodes._kept_edges(run, config).collect())

    assert len(edges("run-1")) == 13
    spark.sql(f"DELETE FROM delta.`{path}` WHERE dst IN (3, 10)")
    spark.sql(f"INSERT INTO delta.`{path}` VALUES (0, 5)")
    actual = edges("run-2")
    assert actual == sorted((str(row.src), str(row.dst), path) for row in spark.read.load(path, "delta").collect())
    assert actual.count(("0", "5", path)) == 3


@pytest.mark.parametrize("count", [1, 3])
def test_a_glob_names_these_files_and_no_others(tmp_path, count):
    names = ["a,b.txt", "sub/{x}.txt", "sub/w[1]*.txt", "w1.txt"]
    (tmp_path / "sub").mkdir()
    for name in names:
        (tmp_path / name).write_text("x")
    wanted = [str(tmp_path / name) for name in names[:count]]
    assert sorted(file.path for file in input_files.walk(increments.glob(wanted))) == sorted(wanted)


def test_refusals():
    with pytest.raises(ValidationError, match="format parquet is always read whole"):
        TextConfig(path="x", format="parquet", incremental=True)
    with pytest.raises(ValidationError, match="need id_column"):
        TextConfig(path="x", format="delta", incremental=True)
