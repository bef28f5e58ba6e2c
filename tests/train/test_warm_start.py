"""A start from a table: which rows it gives, that new ids alone move before the first epoch, how it resumes."""

import shutil
from itertools import pairwise

import numpy as np
import pytest
from fake_run import FakeRun
from test_trainer import CLUSTERS, EACH, config, sentences, train, write_corpus

from embedall_spark.config import parse
from embedall_spark.corpus.blocks import Block
from embedall_spark.errors import BadData, ConfigError
from embedall_spark.schemas import vectors_of
from embedall_spark.train import checkpoint, shard_io, trainer, warm_start
from embedall_spark.train.config import TrainConfig

NEW = [3, 50, 80]
KNOWN = sorted(set(range(CLUSTERS * EACH)) - set(NEW))


@pytest.fixture(scope="module")
def corpus(spark, tmp_path_factory):
    return write_corpus(spark, tmp_path_factory.mktemp("corpus"), list(sentences()))


@pytest.fixture(scope="module")
def start(spark, corpus, tmp_path_factory):
    """A table of a training in which some ids of the corpus are missing, and its matrices."""
    run = FakeRun(spark, tmp_path_factory.mktemp("start"))
    blocks, words = (spark.read.parquet(f"{corpus}/{name}") for name in ("blocks", "vocabulary"))
    trained = trainer.train(run, blocks, words, f"{corpus}/vocabulary", config(context=True))
    known = vectors_of(trained, "words", "test", None).where(~trained.id.isin([f"w{token}" for token in NEW]))
    known.write.format("delta").save(f"{run.folder}/table")
    rows = {row.id: row for row in known.collect()}
    ordered = [rows[f"w{token}"] for token in KNOWN]
    return f"{run.folder}/table", [
        np.array([row[name] for row in ordered], np.float32) for name in ("vector", "context")
    ]


def saved(manifest, corpus, matrix):
    """Return the rows of a checkpoint's input or output vectors, by token."""
    workers, total = len(manifest[matrix]), CLUSTERS * EACH
    index = warm_start.VocabularyIndex.open(f"{corpus}/vocabulary")
    shards = warm_start.plan.shards(index.counts, workers, manifest["sample"], index.folder)
    width = manifest["lengths"][matrix]
    result = np.zeros((total, width), np.float32)
    for shard, file in enumerate(manifest[matrix]):
        ids = shards.ids(shard)
        rows = shard_io.read_rows(f"{manifest['folder']}/{file}", len(ids), width)
        result[ids] = np.concatenate([piece for _, piece in rows])
    return result


@pytest.mark.parametrize("workers", [1, 2])
def test_known_rows_are_the_tables_and_new_ones_join_them(spark, corpus, start, tmp_path, workers):
    table, matrices = start
    options = config(start=f"{table}@0", epochs=1, alpha=0.001, workers=workers)
    run, vectors, _ = train(spark, corpus, tmp_path, options)
    assert ("start/new_ids", 3.0, None) in run.metrics
    # What a run has that was killed in its first epoch.
    shutil.rmtree(tmp_path / "checkpoints/0000-0000")
    manifest = checkpoint.latest(run)
    assert manifest["epoch"] == warm_start.NEW_IDS
    for name, matrix in zip(("inputs", "outputs"), matrices, strict=True):
        assert np.array_equal(saved(manifest, corpus, name)[KNOWN], matrix)
    fitted = saved(manifest, corpus, "inputs")
    unit = fitted / np.linalg.norm(fitted, axis=1, keepdims=True)
    for token in NEW:
        nearest = np.argsort(-(unit @ unit[token]))[1:6]
        assert set(nearest % CLUSTERS) == {token % CLUSTERS}
    assert np.array_equal(train(spark, corpus, tmp_path, options)[1], vectors)
    # At such a rate an epoch hardly moves what is there.
    cosines = np.einsum("ij,ij->i", vectors[KNOWN], matrices[0]) / np.linalg.norm(vectors[KNOWN], axis=1)
    assert (cosines / np.linalg.norm(matrices[0], axis=1)).min() > 0.99


def test_windows_of_new_ids_are_whole_and_those_of_others_left_out():
    random = np.random.default_rng(4)
    lengths = random.integers(2, 30, 40)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    block = Block(0, np.arange(40), offsets, np.arange(offsets[-1], dtype=np.int32))
    chosen = random.random(offsets[-1]) < 0.05
    parts = warm_start.around(block, chosen, 3)
    expected = []
    for begin, end in pairwise(offsets):
        near = [at for at in range(begin, end) if chosen[max(begin, at - 3) : min(end, at + 4)].any()]
        expected += [list(run) for run in np.split(near, np.flatnonzero(np.diff(near) != 1) + 1) if len(run)]
    actual = [part.tolist() for part in np.split(parts.tokens, parts.offsets[1:-1])]
    assert actual == expected * 5
    assert len(set(parts.ids.tolist())) == len(parts.ids)
    assert not len(warm_start.around(block, np.zeros(offsets[-1], bool), 3).tokens)


def test_defaults_and_refusals(spark, corpus, start, tmp_path):
    options = TrainConfig(start="catalog.schema.words@3")
    assert (options.start, options.epochs, options.alpha) == ("catalog.schema.words@3", 1, 0.01)
    assert options.model_fields_set == {"start"}
    assert TrainConfig(start="words", epochs=4).epochs == 4
    for variant in ({"hs": 1}, {"max_n": 6}):
        with pytest.raises(ConfigError, match="start is for GloVe, and for skip-gram and CBOW"):
            parse(TrainConfig, {"start": "words", **variant})
    glove = {"start": "words", "method": "glove"}
    assert (TrainConfig(**glove).epochs, TrainConfig(**glove).window) == (5, 15)
    with pytest.raises(ConfigError, match=r"start with glove\.vector=context"):
        parse(TrainConfig, {**glove, "glove": {"vector": "context"}})
    with pytest.raises(ConfigError, match=r"its vectors have 24 dimensions, and train\.vector_size is 8"):
        warm_start.read(spark, config(start=start[0], vector_size=8))
    with pytest.raises(BadData, match="version 7"):
        warm_start.read(spark, config(start=f"{start[0]}@7"))
    without = tmp_path / "without"
    rows = spark.read.format("delta").load(start[0]).limit(3)
    rows.drop("context").write.format("delta").save(str(without))
    with pytest.raises(ConfigError, match=r"train\.context=true"):
        warm_start.read(spark, config(start=str(without)))
    rows.selectExpr("concat('x', id) id", "vector", "context", "norm", "count", "kind", "run_id").write.format(
        "delta"
    ).save(str(tmp_path / "others"))
    with pytest.raises(BadData, match="has none of the ids"):
        train(spark, corpus, tmp_path / "run", config(start=str(tmp_path / "others")))
