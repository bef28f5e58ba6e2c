"""The trainer on a toy corpus with known clusters: what it learns, how it resumes, how it refuses."""

import json
import shutil
import socket
import time
from types import SimpleNamespace

import numpy as np
import pytest
from fake_run import FakeRun
from gensim.models.fasttext import ft_ngram_hashes
from pyspark.sql import functions as F

from embedall_spark.corpus import blocking, blocks
from embedall_spark.errors import BadData, ResourceError, TrainingDiverged
from embedall_spark.schemas import ENCODED, VOCABULARY
from embedall_spark.train import checkpoint, ring, shard_io, trainer, word2vec
from embedall_spark.train.config import TrainConfig, Until

# The parts of shards are dealt by number: a number of clusters that shares no factor with them puts all into each.
CLUSTERS, EACH, SENTENCES = 7, 12, 3000


def sentences(seed=3):
    random = np.random.default_rng(seed)
    for number in range(SENTENCES):
        cluster = int(random.integers(CLUSTERS))
        members = cluster + CLUSTERS * random.integers(EACH, size=int(random.integers(4, 12)))
        yield number * 7919, [int(member) for member in members]


@pytest.fixture(scope="module")
def corpus(spark, tmp_path_factory):
    return write_corpus(spark, tmp_path_factory.mktemp("corpus"), list(sentences()))


def write_corpus(spark, folder, rows):
    """Write blocks and vocabulary as stages do; token t belongs to cluster t % CLUSTERS."""
    counts = np.bincount([token for _, tokens in rows for token in tokens], minlength=CLUSTERS * EACH)
    words = [(token, f"w{token}", int(count)) for token, count in enumerate(counts)]
    spark.createDataFrame(words, VOCABULARY).coalesce(1).write.parquet(f"{folder}/vocabulary")
    blocking.from_encoded(spark.createDataFrame(rows, ENCODED), 6).write.parquet(f"{folder}/blocks")
    return folder


def config(**options):
    usual = {"vector_size": 24, "window": 5, "sample": 0, "epochs": 4, "alpha": 0.05, "threads": 1}
    return TrainConfig(**{**usual, **options})


def train(spark, corpus, folder, options, evaluate=None, sequences=None):
    run = FakeRun(spark, folder)
    # Without a schema Spark starts a job to read it from a file.
    sequences = spark.read.schema(blocks.BLOCKS).parquet(f"{corpus}/blocks") if sequences is None else sequences
    words = spark.read.schema(VOCABULARY).parquet(f"{corpus}/vocabulary")
    result = trainer.train(run, sequences, words, f"{corpus}/vocabulary", options, evaluate)
    rows = sorted(result.collect(), key=lambda row: int(row.id[1:]))
    return run, np.array([row.vector for row in rows], np.float32), rows


def purity(vectors):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    nearest = np.argsort(-(unit @ unit.T), axis=1)[:, 1:6]
    return float((nearest % CLUSTERS == np.arange(len(vectors))[:, None] % CLUSTERS).mean())


@pytest.fixture(scope="module")
def alone(spark, corpus, tmp_path_factory):
    return train(spark, corpus, tmp_path_factory.mktemp("alone"), config())


def test_one_worker_learns_the_clusters(alone):
    run, vectors, rows = alone
    assert purity(vectors) > 0.95
    assert [row.id for row in rows] == [f"w{token}" for token in range(CLUSTERS * EACH)]
    assert np.allclose([row.norm for row in rows], np.linalg.norm(vectors, axis=1), rtol=1e-6)
    assert all(row.context is None for row in rows)
    losses = [value for name, value, _ in run.metrics if name == "loss"]
    assert len(losses) == 4
    assert losses[-1] < losses[0]


def test_words_with_ngrams_go_on_after_a_kill_with_the_same_bits(spark, corpus, tmp_path):
    options = config(epochs=2, min_n=2, max_n=3, bucket=40)
    run, vectors, _ = train(spark, corpus, tmp_path, options)
    trainer.write_ngrams(run, f"{corpus}/vocabulary", options, "ngrams")
    ngrams = sorted(run.tables["ngrams"].collect())
    manifest = checkpoint.latest(run)
    rows = shard_io.read_rows(f"{manifest['folder']}/{manifest['inputs'][0]}", len(vectors) + len(ngrams), 24)
    inputs = np.concatenate([piece for _, piece in rows])
    assert np.array_equal(inputs[len(vectors) :], np.array([row.vector for row in ngrams], np.float32))
    row_of = {row.bucket: len(vectors) + number for number, row in enumerate(ngrams)}
    for token in (0, 57):
        sources = [token, *(row_of[bucket] for bucket in ft_ngram_hashes(f"w{token}", 2, 3, 40))]
        assert np.allclose(vectors[token], inputs[sources].mean(axis=0), atol=1e-6)
    shutil.rmtree(tmp_path / "checkpoints/0001-0000")
    assert np.array_equal(train(spark, corpus, tmp_path, options)[1], vectors)


def test_hierarchical_softmax_goes_on_with_two_workers(spark, corpus, tmp_path):
    figures = []
    for workers, epochs in ((1, 1), (2, 3), (1, 4)):
        options = config(
            workers=workers, epochs=epochs, episodes=2, alpha=0.2, hs=1, negative=0, window=3, shrink_windows=False
        )
        run, vectors, _ = train(spark, corpus, tmp_path, options)
        figures.append(checkpoint.latest(run)["figures"])
        assert purity(vectors) > (0.95 if epochs > 1 else 0.1)
    assert len({figure["sums"]["pairs"] for figure in figures}) == 1
    # The loss of a pair is summed over the inner nodes of all parts, as with one worker.
    losses = [figure["loss"] for figure in figures]
    assert losses[2] < losses[0]
    assert losses[1] == pytest.approx(losses[2], rel=0.05)


@pytest.mark.parametrize("options", [{"sg": 0}, {"sg": 0, "hs": 1, "cbow_mean": 0}])
def test_cbow_and_hierarchical_softmax_learn_the_clusters(spark, corpus, tmp_path, options):
    run, vectors, _ = train(spark, corpus, tmp_path, config(epochs=1, alpha=0.2, **options))
    # From a checkpoint, whose output rows are longer where there are both.
    run, vectors, _ = train(spark, corpus, tmp_path, config(epochs=3, alpha=0.2, **options))
    assert purity(vectors) > 0.95
    assert np.isfinite(checkpoint.latest(run)["figures"]["loss"])


def test_one_thread_repeats_every_bit_whatever_the_partitioning(spark, corpus, alone, tmp_path):
    shuffled = spark.read.parquet(f"{corpus}/blocks").repartition(5, F.hash("block", F.lit(9)))
    _, again, _ = train(spark, corpus, tmp_path, config(), sequences=shuffled)
    assert np.array_equal(alone[1], again)


def test_two_workers_learn_the_same_and_repeat_every_bit(spark, corpus, alone, tmp_path):
    options = config(workers=2, context=True)
    run, first, rows = train(spark, corpus, tmp_path / "a", options)
    assert purity(first) > 0.95
    assert all(len(row.context) == 24 for row in rows)
    shuffled = spark.read.parquet(f"{corpus}/blocks").repartition(3)
    _, again, _ = train(spark, corpus, tmp_path / "b", options, sequences=shuffled)
    assert np.array_equal(first, again)
    reports = checkpoint.latest(run)["reports"]
    assert sum(report["rows"] for report in reports) == CLUSTERS * EACH
    assert all(report["sent_bytes"] > 0 and report["spool_bytes"] > 0 for report in reports)


def test_rotation_trains_every_pair_once_an_epoch(spark, corpus, tmp_path):
    """With full windows and no subsampling the number of pairs is known exactly."""
    expected = 0
    for _, tokens in sentences():
        size = len(tokens)
        expected += sum(min(size - 1, at + 5) - max(0, at - 5) for at in range(size))
    for workers in (1, 2):
        options = config(workers=workers, epochs=1, shrink_windows=False)
        run, _, _ = train(spark, corpus, tmp_path / str(workers), options)
        assert sum(report["pairs"] for report in checkpoint.latest(run)["reports"]) == expected


@pytest.fixture(scope="module", params=[1, 2])
def short(request, spark, corpus, tmp_path_factory):
    """Two epochs in several slices: the number of workers, the run's folder, which is only copied, and its vectors."""
    folder = tmp_path_factory.mktemp("short")
    options = config(workers=request.param, slice_tokens=12_000, epochs=2)
    return request.param, folder, train(spark, corpus, folder, options)[1]


def test_a_resumed_run_ends_the_same(spark, corpus, short, tmp_path, monkeypatch):
    workers, _, whole = short
    options = config(workers=workers, slice_tokens=12_000, epochs=2)
    built, slices = trainer._train_slice, []

    def stopping(*arguments):
        slices.append(1)
        if len(slices) == 2:
            raise KeyboardInterrupt
        return built(*arguments)

    monkeypatch.setattr(trainer, "_train_slice", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(spark, corpus, tmp_path, options)
    monkeypatch.setattr(trainer, "_train_slice", built)
    run, resumed, _ = train(spark, corpus, tmp_path, options)
    assert np.array_equal(whole, resumed)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2  # older ones are gone
    assert len(checkpoint.latest(run)["inputs"]) == workers


def test_a_run_goes_on_with_another_number_of_workers(spark, corpus, short, tmp_path):
    workers, folder, _ = short
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    options = config(workers=3 - workers, slice_tokens=12_000, epochs=4)
    run, vectors, rows = train(spark, corpus, tmp_path, options)
    assert purity(vectors) > 0.95
    assert len(rows) == CLUSTERS * EACH
    assert len(checkpoint.latest(run)["inputs"]) == 3 - workers


def test_a_diverged_shard_is_never_checkpointed(spark, corpus, short, tmp_path):
    workers, folder, _ = short
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    last = max((tmp_path / "checkpoints").iterdir())
    damaged = last / json.loads((last / "manifest.json").read_text())["inputs"][0]
    rows = np.fromfile(damaged, np.float32)
    rows[5] = np.nan
    rows.tofile(damaged)
    message = r"epoch 3, block \(0, \d\), learning rate 0\.0\d+: a value is not finite"
    with pytest.raises(TrainingDiverged, match=message):
        train(spark, corpus, tmp_path, config(workers=workers, slice_tokens=12_000, epochs=3))
    assert max((tmp_path / "checkpoints").iterdir()) == last


def test_hogwild_threads_learn_too(spark, corpus, tmp_path):
    _, vectors, _ = train(spark, corpus, tmp_path, config(threads=2))
    assert purity(vectors) > 0.95


def test_training_stops_when_the_figure_no_longer_gains(spark, corpus, tmp_path):
    figures = iter([0.1, 0.5, 0.5, 0.9])
    until = Until(metric="similarity", min_gain=0.0, patience=1)
    run, _, _ = train(spark, corpus, tmp_path, config(until=until, epochs=10), lambda vectors: next(figures))
    assert checkpoint.latest(run)["epoch"] + 1 == 3


def test_too_many_workers_for_the_slots(spark, corpus, tmp_path):
    with pytest.raises(ResourceError, match=r"train.workers=3 needs 3 task slots at once.*local\[2\] has 2"):
        train(spark, corpus, tmp_path, config(workers=3))


def test_a_first_worker_that_does_not_answer_is_not_waited_for_without_end():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tasks = [SimpleNamespace(address="127.0.0.1:1")] * 2
        message = f"127.0.0.1 {silent.getsockname()[1]}"
        context = SimpleNamespace(getTaskInfos=lambda: tasks, partitionId=lambda: 1, allGather=lambda _: [message, ""])
        with pytest.raises(TimeoutError, match="Timed out waiting 1 s for the first worker to answer"):
            ring.Ring(context, 1)


def test_dynamic_allocation_is_refused(spark, corpus, tmp_path, monkeypatch):
    class Conf:
        def get(self, key, default=None):
            return "true" if key == "spark.dynamicAllocation.enabled" else default

    class Session:
        conf = Conf()

    from embedall_spark.train import plan, preflight

    with pytest.raises(ResourceError, match=r"dynamicAllocation\.enabled is true"):
        preflight.check(Session(), plan.Corpus(10, 10, 10.0, 1), config(workers=2))


def test_memory_and_disk_are_checked_before_training(spark):
    from embedall_spark.train import plan, preflight

    preflight.check_workers(spark, config(workers=2))
    assert 0 < time.time() - preflight._started(spark) < 86_400
    with pytest.raises(ResourceError, match=r"free memory; 1 worker\(s\) need .* raise train.workers"):
        preflight.check(spark, plan.Corpus(2_000_000_000, 10**10, 1e10, 1), config(vector_size=300))
    with pytest.raises(ResourceError, match=r"free disk in .*lower train.spool_bytes"):
        big = config(workers=2, spool_bytes=1 << 50)
        preflight.check(spark, plan.Corpus(1000, 10**15, 1e15, 1), big)


def test_nothing_to_train_on(spark, corpus, tmp_path):
    empty = spark.read.parquet(f"{corpus}/blocks").limit(0)
    with pytest.raises(BadData, match=r"no sequence has two tokens .* of the vocabulary"):
        train(spark, corpus, tmp_path, config(), sequences=empty)


def test_first_values_depend_on_seed_and_id_alone():
    ids = np.array([3, 70, 5])
    options = config(vector_size=20, seed=11)
    inputs, outputs = word2vec.initial_rows(ids, options)
    again, _ = word2vec.initial_rows(ids[::-1].copy(), options)
    assert np.array_equal(inputs, again[::-1])
    assert inputs.shape == (3, 32)
    assert not inputs[:, 20:].any() and not outputs.any()
    many, _ = word2vec.initial_rows(np.arange(4000), options)
    assert abs(many[:, :20].mean()) < 1e-4
    assert np.abs(many).max() <= 0.5 / 20
    assert np.isclose(many[:, :20].std(), 1 / 20 / np.sqrt(12), rtol=0.02)


def test_greatest_sees_what_is_not_finite():
    rows = np.ones((3, 4), np.float32)
    assert shard_io.max_abs(rows) == 1.0
    for bad in (np.nan, np.inf, -np.inf):
        rows[1, 2] = bad
        assert shard_io.max_abs(rows) == np.inf
