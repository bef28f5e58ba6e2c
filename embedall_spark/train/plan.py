"""The plan of training: shards of the vocabulary, episodes, slices, and their cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numba
import numpy as np

from embedall_spark import files, randomness
from embedall_spark.corpus import cooccurrence
from embedall_spark.train import cost, huffman

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from embedall_spark.corpus.blocks import BlockFilter
    from embedall_spark.train.config import TrainConfig

# A row needs some tens of updates between two rotations; more rotations only cost exchanges (docs/log.md).
_PAIRS_PER_ROW_AND_EPISODE = 64
_FEWEST = 4  # episodes, however slow the network is: fewer cost quality
MOST_TOKEN_COPIES = 8
"""Workers up to which the tokens for all of them, four bytes each, are less than their streams of windows."""
CELL_BYTES = 12
"""Of a cell of GloVe in a spool or a shuffle: row, column and count."""
PARTS = 2
"""Of an output shard. They go round the ring one after the other, so that one is trained while another is sent.

The rows of a shard take turns, so that both parts have equally much work: row r is row r // 2 of part r % 2. Parts are
counted through all shards: part p belongs to shard p // 2."""


@dataclass(frozen=True)
class Corpus:
    """Sizes that the plan depends on."""

    vocabulary: int
    tokens: int
    """Tokens, or for GloVe cells: what an epoch passes over."""
    kept: float
    """Expected number of tokens after subsampling; for GloVe all cells."""
    blocks: int
    most_frequent: tuple[str, float] | None = None
    """The most frequent token and how often subsampling keeps it."""
    turns: float = 1.0
    """Mean length of the path to a kept token in the Huffman tree."""


@dataclass(frozen=True)
class Plan:
    """How an epoch is divided: into slices, each a Spark job of whole episodes."""

    corpus: Corpus
    workers: int
    threads: int
    episodes: int
    slices: int
    device: Literal["cpu", "cuda"] = "cpu"

    def has_tokens(self, config: TrainConfig) -> bool:
        """Return whether workers that rotate receive tokens and draw windows on GPUs; else streams of windows."""
        return self.device == "cuda" and config.method == "sgns" and self.workers <= MOST_TOKEN_COPIES

    def chunk_key(self, config: TrainConfig, part: int) -> int:
        """Return the part under which the spool has the chunks for a part; 0 where all parts use the same."""
        return 0 if config.hs or self.has_tokens(config) else part

    def slice_episodes(self, index: int) -> range:
        """Return the episodes of a slice."""
        return range(index * self.episodes // self.slices, (index + 1) * self.episodes // self.slices)

    def episode_of_blocks(self, epoch: int, seed: int) -> NDArray[np.int64]:
        """Return the episode of each sequence block in an epoch, int64 [blocks]; sizes differ by at most one."""
        order = randomness.permutation(self.corpus.blocks, seed, epoch)
        return order * self.episodes // self.corpus.blocks

    def select_blocks(self, blocks: Iterable[Any], epoch: int, index: int, seed: int) -> Iterator[tuple[int, Any]]:
        """Yield (episode, block) of the blocks that a slice trains on; each block has a ``number``."""
        episodes, of_slice = self.episode_of_blocks(epoch, seed), self.slice_episodes(index)
        for block in blocks:
            episode = int(episodes[block.number])
            if episode in of_slice:
                yield episode, block

    def block_filter(self, epoch: int, index: int, seed: int) -> BlockFilter:
        """Return the filter of the numbers of blocks that a slice trains on."""

        def in_slice(blocks: NDArray[np.int64]) -> NDArray[np.bool_]:
            of_slice, episodes = self.slice_episodes(index), self.episode_of_blocks(epoch, seed)[blocks]
            return (episodes >= of_slice.start) & (episodes < of_slice.stop)

        return in_slice


def make_plan(corpus: Corpus, config: TrainConfig, threads: int, device: Literal["cpu", "cuda"] = "cpu") -> Plan:
    """Return the plan for a corpus: slices that fit the spool, and at least 4 episodes where shards rotate."""
    slices = -(-corpus.tokens // config.slice_tokens)
    if config.workers > 1:
        slices = max(slices, -(-spool_bytes(corpus, config, device) // config.spool_bytes))
        pairs_per_row = 2 * corpus.kept * mean_contexts(config) / max(1, corpus.vocabulary)
        wanted = int(np.clip(pairs_per_row / _PAIRS_PER_ROW_AND_EPISODE, _FEWEST, 16))
        epoch = epoch_sizes(corpus, config, threads, wanted, slices)
        episodes = config.episodes or max(_FEWEST, min(wanted, cost.affordable_episodes(epoch)))
    else:
        episodes = 1
    # Every episode has blocks, and all slices have equally many episodes: the learning rate falls with the slices.
    slices = min(slices, max(1, corpus.blocks))
    each = min(-(-episodes // slices), max(1, corpus.blocks // slices))
    return Plan(corpus, config.workers, threads, slices * each, slices, device)


def epoch_sizes(corpus: Corpus, config: TrainConfig, threads: int, episodes: int, slices: int) -> cost.Epoch:
    """Return what the cost of an epoch depends on."""
    model = 4 * corpus.vocabulary * config.vector_size
    return cost.Epoch(corpus.tokens, config.vector_size, model, config.workers, threads, episodes, slices)


def estimate_cells(corpus: Corpus, config: TrainConfig) -> Corpus:
    """Return the estimated sizes of a corpus of tokens for GloVe: the cells that its co-occurrences will fill."""
    # Fitted to English text, see docs/log.md; there are never more cells than pairs, or than the matrix has.
    pairs = corpus.tokens * config.window
    cells = int(min(2 * pairs, 11.4 * pairs**0.8, corpus.vocabulary**2))
    return Corpus(corpus.vocabulary, cells, float(cells), cooccurrence.block_count(pairs))


def mean_contexts(config: TrainConfig) -> float:
    """Return the average number of contexts of a center far from the ends of its sequence; a cell of GloVe has one."""
    if config.method == "glove":
        return 1.0
    return float(config.window + 1 if config.shrink_windows else 2 * config.window)


def imbalance(corpus: Corpus, config: TrainConfig) -> str | None:
    """Return a sentence about a row that is more work than a worker's share, which no assignment balances; or None.

    Otherwise the shards' work differs by less than 5 %, see docs/scaling.md. With ``hs`` it is the row of the root.
    """
    token, occurrences = corpus.most_frequent or ("", 0.0)
    share, row, otherwise = occurrences / max(1.0, corpus.kept), repr(token), "lower train.sample"
    if config.hs:
        share, row, otherwise = 1 / corpus.turns, "the root of the Huffman tree", "set train.hs=0 and train.negative=5"
    if config.workers == 1 or share * config.workers <= 1:
        return None
    return (
        f"{row} alone is {share:.1%} of the work, more than the share of each of {config.workers} workers, so the "
        f"others will wait for the one that has it: lower train.workers to {max(1, int(1 / share))}, or {otherwise}"
    )


def spool_bytes(corpus: Corpus, config: TrainConfig, device: Literal["cpu", "cuda"] = "cpu") -> int:
    """Return the estimated bytes of windows, cells or, on GPUs, tokens that a worker receives in an epoch."""
    if config.method == "glove":
        return CELL_BYTES * corpus.tokens // config.workers
    if device == "cuda" and config.workers <= MOST_TOKEN_COPIES:
        return 5 * corpus.tokens
    each = mean_contexts(config)
    groups = min(config.workers, each)
    return int(corpus.kept * 4 * (each + 2 * groups) / config.workers)


def learning_rate(config: TrainConfig, progress: float) -> np.float32:
    """Return the learning rate after a share ``progress`` (0 to 1) of the tokens of all epochs; GloVe's is constant."""
    if config.method == "glove":
        return np.float32(config.glove.eta)
    return np.float32(config.alpha - (config.alpha - config.min_alpha) * min(1.0, progress))


@dataclass(frozen=True)
class Shards:
    """The shard of each token's rows, int32 [V], and their index there, int32 [V]."""

    shard: NDArray[np.int32]
    local: NDArray[np.int32]

    def ids(self, index: int) -> NDArray[np.int64]:
        """Return the token ids of a shard in the order of its rows, int64."""
        return np.flatnonzero(self.shard == index)

    def part_ids(self, part: int) -> NDArray[np.int64]:
        """Return the token ids of a part of a shard in the order of its rows, int64."""
        return self.ids(part // PARTS)[part % PARTS :: PARTS]

    def part_sizes(self) -> NDArray[np.int64]:
        """Return the number of rows of all parts, int64 [shards * PARTS]."""
        return np.bincount(self.shard * PARTS + self.local % PARTS)


def shards(counts: NDArray[np.int64], workers: int, sample: float, folder: Path) -> Shards:
    """Return the shards of a vocabulary, computed once per host and memory-mapped from ``folder``.

    Tokens are dealt, most frequent first, to the shard with the least work so far, work being the occurrences that
    subsampling leaves.
    """
    return _keep(folder, f"shards-{workers}-{sample!r}", lambda: assign_shards(np.asarray(counts), workers, sample))


def output_shards(counts: NDArray[np.int64], workers: int, config: TrainConfig, folder: Path) -> Shards:
    """Return the shards of the rows of outputs: those of the tokens, or with ``hs`` of the inner nodes, as shards().

    The work of an inner node is that of the tokens below it; the last row belongs to none.
    """
    if not config.hs:
        return shards(counts, workers, config.sample, folder)

    def assign() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        paths = huffman.paths(counts)
        occurrences = np.repeat(_occurrences(np.asarray(counts), config.sample), np.diff(paths.offsets))
        shard, local = _assign(np.bincount(paths.nodes, occurrences, len(counts)).astype(np.float64), workers)
        return shard, local

    return _keep(folder, f"node-shards-{workers}-{config.sample!r}", assign)


def _keep(folder: Path, name: str, assign: Callable[[], tuple[NDArray[np.int32], NDArray[np.int32]]]) -> Shards:
    target = folder / name
    with files.lock(folder):
        if not (target / "done").exists():
            target.mkdir(exist_ok=True)
            shard, local = assign()
            np.save(target / "shard.npy", shard)
            np.save(target / "local.npy", local)
            (target / "done").touch()
    return Shards(np.load(target / "shard.npy", mmap_mode="r"), np.load(target / "local.npy", mmap_mode="r"))


def assign_shards(
    counts: NDArray[np.int64], workers: int, sample: float
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return shard and row of each token, both int32 [V]."""
    shard, local = _assign(_occurrences(counts, sample), workers)
    return shard, local


def _occurrences(counts: NDArray[np.int64], sample: float) -> NDArray[np.float64]:
    """Return how many occurrences of each token subsampling leaves, float64 [V]."""
    # A vertex that no walk visits has count 0.
    frequency = np.maximum(counts, 1) / float(counts.sum())
    kept = np.minimum(1.0, np.sqrt(sample / frequency) + sample / frequency) if sample > 0 else np.ones(len(counts))
    return np.asarray(kept * counts)


@numba.njit(cache=True)
def _assign(work: NDArray[np.float64], workers: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    load = np.zeros(workers)
    rows = np.zeros(workers, np.int32)
    shard = np.empty(len(work), np.int32)
    local = np.empty(len(work), np.int32)
    # A shard of few rows with much work each would have no negatives to draw but its centers.
    min_rows = len(work) // (4 * workers)
    missing = min_rows * workers
    for token in range(len(work)):
        target = np.argmin(rows) if len(work) - token <= missing else np.argmin(load)
        missing -= rows[target] < min_rows
        shard[token] = target
        local[token] = rows[target]
        load[target] += work[token]
        rows[target] += 1
    return shard, local
