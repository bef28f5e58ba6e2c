"""The refinement through Spark: the sample of pairs, and a process with the same result as a direct call."""

import numpy as np
import pytest
import vector_tables

from embedall_spark import torch_processes
from embedall_spark.errors import BadData, ConfigError, TrainingDiverged, WorkerLost
from embedall_spark.evaluate import retrieval
from embedall_spark.latent.fit import contrastive, contrastive_job
from embedall_spark.latent.fit.contrastive import ContrastiveConfig
from embedall_spark.schemas import PAIRS

NAMES = ("mrr", "recall_1", "recall_10")


@pytest.fixture(scope="module")
def tables(spark):
    random = np.random.default_rng(3)
    shared = random.standard_normal((80, 2))
    sides = [np.hstack([shared, random.standard_normal((80, 3))]) for _ in "xy"]
    sides[1][7] = sides[1][6]
    names = [f"i{at:02d}" for at in range(80)]
    left, right = (vector_tables.table(spark, names, side) for side in sides)
    pairs = spark.createDataFrame([(name, name, None) for name in names] + [("i03", "gone", 1.0)], PAIRS)
    return left, right, pairs, sides


def test_the_sample_is_chosen_by_a_hash(tables):
    left, right, pairs, sides = tables
    whole = contrastive_job.sample(left, right, pairs)
    assert len(whole.left) == 80
    order = [int(np.abs(sides[0] - row).sum(axis=1).argmin()) for row in whole.left]
    np.testing.assert_array_equal(whole.right, sides[1].astype(np.float32)[order])
    # Equal vectors are no negatives of each other.
    assert (len(set(whole.left_ids.tolist())), len(set(whole.right_ids.tolist()))) == (80, 79)
    limited = contrastive_job.sample(left.repartition(3), right, pairs.repartition(4), limit=5)
    for part, everything in zip(limited, whole, strict=True):
        np.testing.assert_array_equal(part, everything[:5])
    with pytest.raises(ConfigError, match="need 1 to 200,000"):
        contrastive_job.sample(left, right, pairs, limit=0)
    with pytest.raises(BadData, match="nothing can be refined"):
        contrastive_job.sample(left, right, pairs.where("right = 'gone'"))


def test_a_score_takes_a_part_of_many_items(tables, monkeypatch):
    pairs = contrastive_job.sample(*tables[:3])
    identity = np.eye(5)
    order = np.argsort(pairs.left_ids)
    links = np.stack([np.arange(80), np.unique(pairs.right_ids[order], return_inverse=True)[1]], axis=1)
    rights = pairs.right[np.unique(pairs.right_ids, return_index=True)[1]]
    for scored in (80, 12):
        monkeypatch.setattr(contrastive_job, "_SCORED", scored)
        partners, partner = np.unique(links[:scored, 1], return_inverse=True)
        expected = retrieval.measure(
            pairs.left[order][:scored], rights[partners], np.stack([np.arange(scored), partner], axis=1)
        )
        mean = [(expected[f"left_to_right/{name}"] + expected[f"right_to_left/{name}"]) / 2 for name in NAMES]
        assert list(contrastive_job.scorer(pairs)(identity, identity)) == pytest.approx(mean)


def test_a_separate_process_gives_the_result_of_a_direct_call(spark, tables, tmp_path):
    pairs = contrastive_job.sample(*tables[:3])
    train, validation = (contrastive.Pairs(*(part[rows] for part in pairs)) for rows in (slice(50), slice(50, 80)))
    config = ContrastiveConfig(epochs=4, batch=25, rate=0.05)
    refined = contrastive_job.refine(spark, str(tmp_path), train, validation, config)
    score = contrastive_job.scorer(validation)
    direct = contrastive.refine(train, config, lambda a, b: score(a, b).mrr)
    assert (refined.epoch, refined.scores) == (direct.epoch, pytest.approx(direct.scores))
    np.testing.assert_allclose(refined.left, direct.left, atol=1e-5)
    assert refined.epoch > 0


def test_a_process_that_fails_says_why(spark, tables, tmp_path, monkeypatch):
    def here(function, *arguments):
        """Run the function in this process, and report of an error only that there was one."""
        try:
            function(*arguments)
        except Exception:
            raise RuntimeError("it ended with exit code 1") from None

    monkeypatch.setattr(torch_processes, "run_alone", here)
    train = validation = contrastive_job.sample(*tables[:3])
    config = ContrastiveConfig(epochs=1)
    broken = train._replace(left=np.full_like(train.left, np.nan))
    with pytest.raises(TrainingDiverged, match="not finite in epoch 1"):
        contrastive_job.refine(spark, str(tmp_path), broken, validation, config)
    monkeypatch.setattr(contrastive_job, "work", None)
    with pytest.raises(WorkerLost, match=r"died; its output is above.*exit code 1"):
        contrastive_job.refine(spark, str(tmp_path), train, validation, config)


def test_a_process_prints_its_output_and_its_failure_is_an_error(capfd):
    torch_processes.run_alone(print, "a line")
    assert capfd.readouterr().out == "a line\n"
    with pytest.raises(RuntimeError, match="exit code 1"):
        torch_processes.run_alone(open, "/no/such/file")
    assert "No such file or directory: '/no/such/file'" in capfd.readouterr().out


def test_a_missing_gpu_is_refused(spark, tables, tmp_path):
    pairs = contrastive_job.sample(*tables[:3])
    with pytest.raises(ConfigError, match=r"Spark has no GPU \(GPUs were unable to be found.*spark-gpu.conf"):
        contrastive_job.refine(spark, str(tmp_path), pairs, pairs, ContrastiveConfig(gpu=True))
    assert not list(tmp_path.iterdir())
