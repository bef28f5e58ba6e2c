"""Shards are balanced by work, episodes hold every block once, slices fit the spool."""

from functools import reduce

import numpy as np
import pytest

from embedall_spark.corpus.blocks import Block
from embedall_spark.train import huffman, methods, plan, trainer, window_chunks
from embedall_spark.train.config import TrainConfig


def zipf(size):
    return np.sort((1e7 / np.arange(1, size + 1) ** 1.05).astype(np.int64) + 5)[::-1].copy()


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_shards_are_balanced_by_work(workers):
    counts = zipf(20_000)
    shard, local = plan.assign_shards(counts, workers, 1e-3)
    frequency = counts / counts.sum()
    work = counts * np.minimum(1, np.sqrt(1e-3 / frequency) + 1e-3 / frequency)
    load = np.bincount(shard, weights=work)
    assert load.max() / load.mean() < 1.01
    for index in range(workers):
        assert np.array_equal(local[shard == index], np.arange((shard == index).sum()))


def test_shards_are_kept_and_mapped(tmp_path):
    counts = zipf(1000)
    first = plan.shards(counts, 3, 1e-3, tmp_path)
    again = plan.shards(counts[:0], 3, 1e-3, tmp_path)  # read back, not dealt again
    assert np.array_equal(first.shard, again.shard)
    assert np.array_equal(first.local, again.local)
    assert sorted(np.concatenate([first.ids(index) for index in range(3)])) == list(range(1000))


def test_every_block_is_in_one_episode_of_one_slice():
    config = TrainConfig(workers=4, spool_bytes=1 << 20)
    result = plan.make_plan(plan.Corpus(1000, 2_000_000, 1_500_000.0, 100), config, 1)
    assert result.slices > 1
    assert result.episodes >= 4
    for epoch in range(3):
        episodes = result.episode_of_blocks(epoch, 7)
        sizes = np.bincount(episodes, minlength=result.episodes)
        assert len(episodes) == 100
        assert sizes.max() - sizes.min() <= 1
    whole = [episode for index in range(result.slices) for episode in result.slice_episodes(index)]
    assert whole == list(range(result.episodes))
    assert not np.array_equal(result.episode_of_blocks(0, 7), result.episode_of_blocks(1, 7))


def test_one_worker_has_one_episode_a_slice():
    result = plan.make_plan(plan.Corpus(1000, 1_000_000, 8e5, 64), TrainConfig(slice_tokens=300_000), 2)
    assert result.slices == result.episodes == 4
    assert plan.make_plan(plan.Corpus(1000, 1_000, 8e2, 1), TrainConfig(slice_tokens=1000), 1).slices == 1


def test_the_rate_falls_linearly():
    config = TrainConfig(alpha=0.02, min_alpha=0.001)
    assert plan.learning_rate(config, 0) == pytest.approx(0.02)
    assert plan.learning_rate(config, 0.5) == pytest.approx(0.0105)
    assert plan.learning_rate(config, 1.0) == plan.learning_rate(config, 1.1) == pytest.approx(0.001)


def test_long_sequences_are_cut_without_losing_a_token():
    lengths = [3, 25, 10, 1]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    block = Block(5, np.array([10, 20, 30, 40]), offsets, np.arange(39, dtype=np.int32))
    actual = window_chunks.cut(block, 10)
    assert np.diff(actual.offsets).tolist() == [3, 10, 10, 5, 10, 1]
    assert actual.ids[[0, 1, 4, 5]].tolist() == [10, 20, 30, 40]
    assert len(set(actual.ids.tolist())) == 6
    assert actual.offsets[0] == 0 and actual.offsets[-1] == 39
    assert window_chunks.cut(block, 25) is block


def test_a_token_that_is_too_much_work_for_its_worker_is_named():
    corpus = plan.Corpus(1000, 10_000, 1_000.0, 10, ("the", 300.0))
    assert plan.imbalance(corpus, TrainConfig(workers=2)) is None
    assert plan.imbalance(corpus, TrainConfig()) is None
    problem = plan.imbalance(corpus, TrainConfig(workers=4))
    assert problem is not None
    assert problem.startswith("'the' alone is 30.0% of the work")
    assert "lower train.workers to 3" in problem


def test_a_tree_whose_root_is_too_much_work_for_its_worker_is_named():
    corpus = plan.Corpus(1000, 10_000, 1_000.0, 10, ("the", 900.0), turns=8.0)
    assert plan.imbalance(corpus, TrainConfig(workers=8, hs=1, negative=0)) is None
    problem = plan.imbalance(corpus, TrainConfig(workers=9, hs=1, negative=0))
    assert problem.startswith("the root of the Huffman tree alone is 12.5% of the work")
    assert "lower train.workers to 8, or set train.hs=0" in problem


def test_inner_nodes_are_dealt_so_that_all_parts_have_equally_much_work(tmp_path):
    counts = (1e6 / np.arange(1, 2001)).astype(np.int64)
    paths = huffman.paths(counts)
    shards = plan.output_shards(counts, 4, TrainConfig(workers=4, hs=1, negative=0, sample=0), tmp_path)
    selected = [huffman.select(paths, shards.shard, shards.local, 2, part) for part in range(8)]
    lengths = np.array([np.diff(part.offsets) for part in selected])
    assert (lengths.sum(0) == np.diff(paths.offsets)).all()
    work = (lengths * counts).sum(1).reshape(4, 2).sum(1)
    assert work.max() / work.mean() < 1.001
    assert shards.part_sizes().sum() == 2000 and shards.part_sizes()[:2].tolist() == [
        len(shards.part_ids(part)) for part in range(2)
    ]
    # A token's path is that of its parts, in any order.
    for token in (0, 7, 1999):
        nodes = {
            (int(shards.part_ids(number)[node]), int(code))
            for number, part in enumerate(selected)
            for node, code in zip(*(a[part.offsets[token] : part.offsets[token + 1]] for a in part[1:]), strict=True)
        }
        whole = slice(paths.offsets[token], paths.offsets[token + 1])
        assert nodes == set(zip(paths.nodes[whole].tolist(), paths.codes[whole].tolist(), strict=True))


@pytest.mark.parametrize("method", ["sgns", "glove"])
def test_a_diverged_run_names_the_option_of_its_learning_rate(method):
    config = TrainConfig.model_validate({"method": method})
    rate = methods.of(config).RATE
    section, *names = rate.split(".")
    assert (section, reduce(getattr, names, config)) == ("train", pytest.approx(plan.learning_rate(config, 0)))
    error = trainer._divergence({"another worker's values", "epoch 1: a value is not finite"}, rate)
    assert f"diverged at epoch 1: a value is not finite; this slice was not saved. Lower {rate}" in str(error)
