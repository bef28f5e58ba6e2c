"""Who trains what and when: shards of the vocabulary, episodes, slices; and what that costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba
import numpy as np

from embedall_spark import files, randomness

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from embedall_spark.train.config import SkipGram

# A row wants some tens of updates between two rotations; more rotations only cost exchanges (docs/log.md).
_PAIRS_PER_ROW_AND_EPISODE = 64
_BASE_MEMORY = 600 << 20


@dataclass(frozen=True)
class Corpus:
    """Sizes that the plan is made from."""

    vocabulary: int
    tokens: int
    kept: float
    """Tokens that subsampling leaves, on average."""
    blocks: int


@dataclass(frozen=True)
class Plan:
    """How an epoch is cut: into episodes, whole episodes into slices; one slice is one Spark job."""

    corpus: Corpus
    workers: int
    threads: int
    episodes: int
    slices: int

    def slice_episodes(self, index: int) -> range:
        """Return the episodes of one slice."""
        return range(index * self.episodes // self.slices, (index + 1) * self.episodes // self.slices)

    def episode_of_blocks(self, epoch: int, seed: int) -> NDArray[np.int64]:
        """Return the episode of each sequence block in one epoch, int64 [blocks]; sizes differ by at most one."""
        order = randomness.permutation(self.corpus.blocks, seed, epoch)
        return order * self.episodes // self.corpus.blocks

    def wanted(self, epoch: int, index: int, seed: int) -> Callable[[NDArray[np.int64]], NDArray[np.bool_]]:
        """Return the function that tells of numbers of blocks, int64 [n], whether a slice trains on them."""

        def of_slice(blocks: NDArray[np.int64]) -> NDArray[np.bool_]:
            mine, episodes = self.slice_episodes(index), self.episode_of_blocks(epoch, seed)[blocks]
            return (episodes >= mine.start) & (episodes < mine.stop)

        return of_slice


def make(corpus: Corpus, config: SkipGram, threads: int) -> Plan:
    """Return the plan for a corpus: at least 4 episodes where a model rotates, slices that fit the spool."""
    slices = -(-corpus.tokens // config.slice_tokens)
    if config.workers > 1:
        slices = max(slices, -(-spool_bytes(corpus, config) // config.spool_bytes))
        pairs_per_row = 2 * corpus.kept * contexts(config) / max(1, corpus.vocabulary)
        episodes = config.episodes or int(np.clip(pairs_per_row / _PAIRS_PER_ROW_AND_EPISODE, 4, 16))
    else:
        episodes = 1
    # Every episode has some blocks, and every slice as many episodes as any other: the rate falls with the slices.
    slices = min(slices, max(1, corpus.blocks))
    each = min(-(-episodes // slices), max(1, corpus.blocks // slices))
    return Plan(corpus, config.workers, threads, slices * each, slices)


def contexts(config: SkipGram) -> float:
    """Return the average number of context tokens of a center, sequence ends left out."""
    return float(config.window + 1 if config.shrink_windows else 2 * config.window)


def spool_bytes(corpus: Corpus, config: SkipGram) -> int:
    """Return about how many bytes of windows one worker receives in an epoch."""
    each = contexts(config)
    groups = min(config.workers, each)
    return int(corpus.kept * 4 * (each + 2 * groups) / config.workers)


def memory_bytes(corpus: Corpus, config: SkipGram) -> int:
    """Return about how many bytes one worker needs: its two shards, one on its way in, and the process itself."""
    shards = 3 if config.workers > 1 else 2
    row = 4 * -(-config.vector_size // 16) * 16
    return _BASE_MEMORY + shards * -(-corpus.vocabulary // config.workers) * row + 12 * corpus.vocabulary


def rate(config: SkipGram, progress: float) -> np.float32:
    """Return the learning rate when a share ``progress`` (0 to 1) of all epochs' tokens is done."""
    return np.float32(config.alpha - (config.alpha - config.min_alpha) * min(1.0, progress))


@dataclass(frozen=True)
class Shards:
    """Where each token's rows lie: shard int32 [V] and row within it int32 [V]."""

    shard: NDArray[np.int32]
    local: NDArray[np.int32]

    def ids(self, index: int) -> NDArray[np.int64]:
        """Return the token ids of one shard in the order of its rows, int64."""
        return np.flatnonzero(self.shard == index)


def shards(counts: NDArray[np.int64], workers: int, sample: float, folder: Path) -> Shards:
    """Return the shards of a vocabulary, computed once per host and memory-mapped from ``folder``.

    Tokens are dealt, most frequent first, to the shard with the least work so far, work being the occurrences that
    subsampling leaves.
    """
    target = folder / f"shards-{workers}-{sample!r}"
    with files.lock(folder):
        if not (target / "done").exists():
            target.mkdir(exist_ok=True)
            shard, local = deal(np.asarray(counts), workers, sample)
            np.save(target / "shard.npy", shard)
            np.save(target / "local.npy", local)
            (target / "done").touch()
    return Shards(np.load(target / "shard.npy", mmap_mode="r"), np.load(target / "local.npy", mmap_mode="r"))


def deal(counts: NDArray[np.int64], workers: int, sample: float) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return shard and row of each token, both int32 [V]."""
    # A vertex that no walk has met counts 0.
    frequency = np.maximum(counts, 1) / float(counts.sum())
    kept = np.minimum(1.0, np.sqrt(sample / frequency) + sample / frequency) if sample > 0 else np.ones(len(counts))
    shard, local = _deal(kept * counts, workers)
    return shard, local


@numba.njit(cache=True)
def _deal(work: NDArray[np.float64], workers: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    load = np.zeros(workers)
    rows = np.zeros(workers, np.int32)
    shard = np.empty(len(work), np.int32)
    local = np.empty(len(work), np.int32)
    # A shard of few rows, each of much work, would have no negatives to draw but its centers.
    fewest = len(work) // (4 * workers)
    missing = fewest * workers
    for token in range(len(work)):
        least = np.argmin(rows) if len(work) - token <= missing else np.argmin(load)
        missing -= rows[least] < fewest
        shard[token] = least
        local[token] = rows[least]
        load[least] += work[token]
        rows[least] += 1
    return shard, local
