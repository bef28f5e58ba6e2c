"""Slices trained on a device, in Triton's interpreter: what they learn, and checkpoints that go from it to the CPU."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_run import FakeRun

pytest.importorskip("triton")
from embedall_spark.corpus import blocking, blocks
from embedall_spark.schemas import ENCODED, VOCABULARY
from embedall_spark.train import shard_io, single_worker, slice_state, trainer
from embedall_spark.train.config import TrainConfig
from embedall_spark.train.device import rotation as device_rotation
from embedall_spark.train.plan import Corpus, Plan

TOKENS, SENTENCES, LENGTH = 8, 24, 6


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Write a vocabulary of two clusters, even and odd tokens; return its folder and blocks of their sentences."""
    folder, random = tmp_path_factory.mktemp("corpus"), np.random.default_rng(1)
    sentences = 2 * random.integers(0, TOKENS // 2, (SENTENCES, LENGTH)) + np.arange(SENTENCES)[:, None] % 2
    counts = np.bincount(sentences.ravel(), minlength=TOKENS)
    words = {"id": np.arange(TOKENS), "token": [f"w{token}" for token in range(TOKENS)], "count": counts}
    pq.write_table(pa.table(words), folder / "part.parquet")
    rows = [
        {
            "block": number,
            "ids": np.arange(number, SENTENCES, 4).tobytes(),
            "lengths": np.full(SENTENCES // 4, LENGTH, np.int32).tobytes(),
            "tokens": sentences[number::4].astype(np.int32).tobytes(),
            "count": SENTENCES // 4 * LENGTH,
        }
        for number in range(4)
    ]
    return str(folder), pa.RecordBatch.from_pylist(rows).select(blocks.BLOCKS.names)


def config(**options):
    usual = {"vector_size": 12, "window": 3, "negative": 2, "sample": 0, "alpha": 0.1, "min_alpha": 0.1, "threads": 1}
    return TrainConfig(**{**usual, "shrink_windows": False, "epochs": 3, **options})


def slice_of(corpus, folder, device, before=None, **options):
    plan = Plan(Corpus(TOKENS, SENTENCES * LENGTH, float(SENTENCES * LENGTH), 4), 1, 1, 1, 1, device)
    epoch = 0 if before is None else before["epoch"] + 1
    return slice_state.Slice("run", corpus[0], str(folder), before, plan, config(**options), epoch, 0)


def train(corpus, folder, device, before=None, batches=None, **options):
    """Train an epoch as the task of W = 1 does; return the checkpoint's manifest, and the worker's report."""
    slice_ = slice_of(corpus, folder, device, before, **options)
    folder.mkdir(exist_ok=True)
    (report,) = single_worker._task(slice_)(batches or [corpus[1]])
    figures = json.loads(report.column("report")[0].as_py())
    manifest = {
        "folder": str(folder), "workers": 1, "epoch": slice_.epoch, "lengths": {"inputs": 12, "outputs": 12},
        "inputs": [figures["inputs"]], "outputs": [figures["outputs"]],
    }  # fmt: skip
    return manifest, figures


def vectors(manifest, matrix="inputs"):
    path = f"{manifest['folder']}/{manifest[matrix][0]}"
    return np.concatenate([rows for _, rows in shard_io.read_rows(path, TOKENS, manifest["lengths"][matrix])])


def separation(rows):
    """Return the mean cosine within a cluster minus that between two; at most 2."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines, same = unit @ unit.T, np.add.outer(np.arange(TOKENS), np.arange(TOKENS)) % 2 == 0
    return cosines[same].mean() - cosines[~same].mean()


def test_a_device_learns_and_its_checkpoint_goes_on_on_the_cpu_and_back(corpus, tmp_path):
    first, on_device = train(corpus, tmp_path / "1", "cuda")
    _, on_cpu = train(corpus, tmp_path / "1-cpu", "cpu")
    # The same windows: as many pairs.
    assert on_device["pairs"] == on_cpu["pairs"] > 500
    assert on_device["tokens"] == SENTENCES * LENGTH
    second, on_cpu = train(corpus, tmp_path / "2", "cpu", first)
    third, again = train(corpus, tmp_path / "3", "cuda", second)
    losses = [report["loss"] / report["loss_pairs"] for report in (on_device, on_cpu, again)]
    assert losses[0] > losses[2]
    assert min(separation(vectors(one)) for one in (first, second, third)) > 0.7


def test_blocks_survive_the_way_to_a_worker(corpus):
    for block in blocks.unpack(corpus[1]):
        again = device_rotation.unpack_block(np.frombuffer(device_rotation.pack_block(block), np.int32))
        assert again.number == block.number
        assert all(np.array_equal(one, two) for one, two in zip(again[1:], block[1:], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sgns", "glove"])
def test_several_devices_train_what_one_goes_on_with(spark, tmp_path, method):
    """Two workers train an epoch in the interpreter, exchanging by gloo; one on the CPU trains the next."""
    random = np.random.default_rng(2)
    sentences = 2 * random.integers(0, 24, (20, 6)) + np.arange(20)[:, None] % 2
    rows = [(number, tokens.tolist()) for number, tokens in enumerate(sentences)]
    counts = np.bincount(sentences.ravel(), minlength=48)
    words = spark.createDataFrame([(token, f"w{token}", int(n)) for token, n in enumerate(counts)], VOCABULARY)
    words.coalesce(1).write.parquet(f"{tmp_path}/vocabulary")
    sequences = blocking.from_encoded(spark.createDataFrame(rows, ENCODED), 2).cache()
    run, options = FakeRun(spark, tmp_path), {"method": method, "epochs": 1, "vector_size": 12, "window": 2}
    if method == "sgns":
        options |= {"sample": 0, "shrink_windows": False}
    for more in ({"workers": 2, "device": "cuda", "episodes": 1}, {"epochs": 2, "threads": 1}):
        result = trainer.train(run, sequences, words, f"{tmp_path}/vocabulary", TrainConfig(**{**options, **more}))
    sequences.unpersist()
    assert result.count() == 48
    first, second = (checkpoint_manifest(tmp_path, epoch) for epoch in range(2))
    assert (first["workers"], second["workers"]) == (2, 1)
    assert sum(report["sent_bytes"] for report in first["reports"]) > 0
    assert first["figures"]["sums"]["pairs"] == second["figures"]["sums"]["pairs"]
    assert second["figures"]["loss"] < first["figures"]["loss"]


def checkpoint_manifest(folder, epoch):
    return json.loads((folder / "checkpoints" / f"{epoch:04d}-0000" / "manifest.json").read_text())
