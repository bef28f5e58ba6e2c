"""GloVe through the trainer: what it learns, with one worker and with two, after a kill, and its options."""

import shutil
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from fake_run import FakeRun
from pyspark.sql import functions as F
from train.test_trainer import CLUSTERS, EACH, purity, sentences, train, write_corpus
from train.test_warm_start import saved

from embedall_spark import config as configs
from embedall_spark.corpus.cooccurrence import CELLS
from embedall_spark.errors import ConfigError
from embedall_spark.kinds import sequences, words
from embedall_spark.schemas import vectors_of
from embedall_spark.train import checkpoint, glove
from embedall_spark.train import plan as plans
from embedall_spark.train.config import TrainConfig


@pytest.fixture(scope="module")
def corpus(spark, tmp_path_factory):
    """A third of the tokens are random: pairs that never occur are no cells, and would tell GloVe nothing."""
    random = np.random.default_rng(5)
    rows = [
        (number, [int(random.integers(CLUSTERS * EACH)) if random.random() < 1 / 3 else token for token in tokens])
        for number, tokens in sentences()
    ]
    return write_corpus(spark, tmp_path_factory.mktemp("noisy"), rows)


def config(**options):
    usual = {"method": "glove", "vector_size": 24, "window": 5, "epochs": 12, "threads": 1, "glove": {"x_max": 10}}
    return TrainConfig.model_validate({**usual, **options})


@pytest.fixture(scope="module")
def alone(spark, corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("glove")
    return folder, *train(spark, corpus, folder, config())


def test_it_learns_the_clusters(alone):
    _, run, vectors, rows = alone
    assert purity(vectors) > 0.95
    assert len(rows) == CLUSTERS * EACH
    losses = [value for name, value, _ in run.metrics if name == "loss"]
    assert len(losses) == 12
    assert losses[-1] < losses[0] / 2
    assert any(name == "cells_per_second" for name, *_ in run.metrics)


def test_any_partitioning_gives_the_same_bits_also_after_a_kill(spark, corpus, alone, tmp_path):
    folder, _, vectors, _ = alone
    shuffled = spark.read.parquet(f"{corpus}/blocks").repartition(3, F.hash("block", F.lit(9)))
    shutil.copytree(folder / "checkpoints", tmp_path / "checkpoints")
    shutil.rmtree(tmp_path / "checkpoints/0011-0000")
    _, again, _ = train(spark, corpus, tmp_path, config(), sequences=shuffled)
    assert np.array_equal(vectors, again)


def test_a_slice_has_each_block_once_for_each_order_of_its_pairs(spark):
    random = np.random.default_rng(3)
    blocks, expected = [], Counter()
    for number in range(9):
        rows, columns = np.sort(random.integers(40, size=(2, 50)).astype(np.int32), axis=0)
        counts = random.random(50).astype(np.float32)
        blocks.append((number, *(bytearray(column.tobytes()) for column in (rows, columns, counts)), 50))
        for row, column, count in zip(rows, columns, counts, strict=True):
            expected.update({(row, column, count), (column, row, count)})
    options = config(slice_tokens=1000)
    plan = plans.make_plan(plans.Corpus(40, 3000, 3000.0, 9), options, 1)
    assert plan.slices == 3
    found, orders = Counter(), []
    for epoch in (0, 1):
        for index in range(3):
            slice_ = SimpleNamespace(plan=plan, config=options, epoch=epoch, index=index)
            shuffled = glove.shuffle(spark.createDataFrame(blocks, CELLS), slice_)
            (batch,) = shuffled.toArrow().combine_chunks().to_batches()
            orders.append(list(zip(batch["block"].to_pylist(), batch["side"].to_pylist(), strict=True)))
            for cells in glove.unpack(batch, options):
                found.update(zip(cells.rows, cells.columns, cells.counts, strict=True))
    assert sorted(orders[0] + orders[1] + orders[2]) == [(number, side) for number in range(9) for side in (0, 1)]
    assert orders[:3] != orders[3:]
    assert found == expected + expected


def test_two_workers(spark, corpus, alone, tmp_path):
    _, of_one, _, _ = alone
    of_two, vectors, _ = train(spark, corpus, tmp_path, config(workers=2, epochs=4))
    assert purity(vectors) > 0.95
    one, two = ([value for name, value, _ in run.metrics if name == "loss"][3] for run in (of_one, of_two))
    assert two == pytest.approx(one, rel=0.1)
    cells = [sum(report["pairs"] for report in checkpoint.latest(run)["reports"]) for run in (of_one, of_two)]
    assert cells[0] == cells[1]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_start_from_a_table(spark, corpus, alone, tmp_path, workers):
    folder, cold, _, _ = alone
    new = [3, 50, 80]
    known = sorted(set(range(CLUSTERS * EACH)) - set(new))
    manifest = {**checkpoint.latest(FakeRun(spark, folder)), "context": True}
    table = vectors_of(checkpoint.vectors(FakeRun(spark, folder), manifest, f"{corpus}/vocabulary"), "words", "a", None)
    table.where(~table.id.isin([f"w{token}" for token in new])).write.format("delta").save(f"{tmp_path}/table")
    options = config(start=f"{tmp_path}/table", epochs=1, workers=workers)
    run, vectors, _ = train(spark, corpus, tmp_path, options)
    # The pass over biases and new ids, then an epoch that goes on where the training of the table was.
    losses, before = ([value for name, value, _ in run_.metrics if name == "loss"] for run_ in (run, cold))
    assert len(losses) == 2
    assert losses[1] < before[3]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    nearest = np.argsort(-(unit @ unit.T), axis=1)[new, 1:6]
    assert (nearest % CLUSTERS == np.array(new)[:, None] % CLUSTERS).mean() > 0.8
    shutil.rmtree(tmp_path / "checkpoints/0000-0000")
    after_pass = checkpoint.latest(run)
    sums = {name: saved(after_pass, corpus, name) for name in ("inputs", "outputs")}
    expected = {row.id: (row.vector, row.context) for row in table.collect()}
    both, contexts = (np.array([expected[f"w{token}"][at] for token in known], np.float32) for at in (0, 1))
    np.testing.assert_array_equal(sums["outputs"][known, :24], contexts)
    np.testing.assert_array_equal(sums["inputs"][known, :24], both - contexts)
    # Of each side the bias, which begins within 0.02 of zero, has been trained.
    assert np.abs(sums["inputs"][known, 24]).mean() > 0.2
    assert np.abs(sums["outputs"][known, 25]).mean() > 0.2


def test_sum_input_and_context(spark, corpus, alone):
    folder, _, vectors, _ = alone
    run = FakeRun(spark, folder)
    manifest = checkpoint.latest(run)

    def rows(**entries):
        table = checkpoint.vectors(run, {**manifest, **entries}, f"{corpus}/vocabulary").collect()
        return sorted(table, key=lambda row: int(row.id[1:]))

    both = rows(vector="input", context=True)
    inputs, contexts = (np.array([row[name] for row in both], np.float32) for name in ("vector", "context"))
    assert np.array_equal(inputs + contexts, vectors)
    assert np.array_equal(np.array([row.vector for row in rows(vector="context")], np.float32), contexts)
    assert not np.array_equal(inputs, contexts)


@pytest.mark.parametrize(
    ("train_options", "message"),
    [
        ({"method": "glove", "negative": 3}, "train.negative is for method sgns, but train.method is glove"),
        ({"glove": {"x_max": 10}}, "train.glove has options of method glove, but train.method is sgns"),
        ({"method": "word2vec"}, "train.method: found 'word2vec'"),
    ],
)
def test_options_of_the_other_method(train_options, message):
    data = {"input": {"path": "a"}, "output": {"table": "b"}, "train": train_options}
    with pytest.raises(ConfigError, match=message):
        configs.parse(words.Config, data)


def test_defaults_are_those_of_the_method():
    assert (TrainConfig().window, TrainConfig().epochs) == (5, 5)
    options = TrainConfig.model_validate({"method": "glove"})
    assert (options.window, options.epochs) == (15, 25)
    assert TrainConfig.model_validate(options.model_dump()) == options
    assert config(window=3).window == 3


def test_baskets_have_no_distances():
    data = {"input": {"path": "a", "key": "k", "item": "i"}, "output": {"table": "b"}, "train": {"method": "glove"}}
    options = configs.parse(sequences.Config, data).training
    assert options.window > 15
    assert not options.glove.cooccurrence.distance_weighting
    data["train"]["window"] = 7
    assert configs.parse(sequences.Config, data).training.window == 7
