import itertools
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from embedall_spark.corpus import windows

VOCABULARY = 40


def corpus(seed=0, sequences=60, longest=50):
    random = np.random.default_rng(seed)
    lengths = random.integers(0, longest, sequences)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = random.integers(0, VOCABULARY, offsets[-1]).astype(np.int32)
    return tokens, offsets, random.permutation(sequences).astype(np.int64) * 977 - 5000


def dealt(workers):
    """Shard and row of each token, dealt in turn after a shuffle."""
    order = np.random.default_rng(9).permutation(VOCABULARY)
    shard, local = np.empty(VOCABULARY, np.int32), np.empty(VOCABULARY, np.int32)
    shard[order] = np.arange(VOCABULARY) % workers
    local[order] = np.arange(VOCABULARY) // workers
    return shard, local


def draw(data, workers=1, window=3, shrink=False, keep=None, seed=7, room=1 << 16, parts=1, by_center=False):
    """All streams of a corpus, each the concatenation of what fits into buffers of ``room`` ints."""
    tokens, offsets, ids = data
    keep = windows.keep_thresholds(np.ones(VOCABULARY, np.int64), 0) if keep is None else keep
    count = workers if by_center else workers**2 * parts
    streams, fill = np.full((count, room), -1, np.int32), np.zeros(count, np.int64)
    pieces = [[] for _ in range(count)]
    start, calls = 0, 0
    while start < len(ids):
        following = windows.draw_windows(
            *(tokens, offsets, ids, start, keep, *dealt(workers)),
            *(workers, window, shrink, parts, by_center, np.uint64(seed), streams, fill),
        )
        assert following > start
        for piece, stream, used in zip(pieces, streams, fill, strict=True):
            piece.append(stream[:used].copy())
        fill[:] = 0
        start, calls = following, calls + 1
    return [np.concatenate(piece) for piece in pieces], calls


def groups(stream):
    at = 0
    while at < len(stream):
        count = stream[at + 1]
        yield stream[at], stream[at + 2 : at + 2 + count]
        at += 2 + count
    assert at == len(stream)


def pairs(streams, workers):
    """Pairs (center, context) by vocabulary id."""
    shard, local = dealt(workers)
    name = {(int(s), int(r)): token for token, (s, r) in enumerate(zip(shard, local, strict=True))}
    return Counter(
        (name[number % workers, int(center)], name[number // workers, int(context)])
        for number, stream in enumerate(streams)
        for center, contexts in groups(stream)
        for context in contexts
    )


def brute_force(data, window):
    tokens, offsets, _ = data
    actual = Counter()
    for begin, stop in itertools.pairwise(offsets):
        sequence = tokens[begin:stop]
        for i, center in enumerate(sequence):
            for j, context in enumerate(sequence):
                if i != j and abs(i - j) <= window:
                    actual[int(center), int(context)] += 1
    return actual


@pytest.mark.parametrize("workers", [1, 2, 3, 40])
@pytest.mark.parametrize("window", [1, 4, 100])
def test_full_windows_hold_the_pairs_of_brute_force(workers, window):
    data = corpus()
    streams, _ = draw(data, workers, window)
    assert pairs(streams, workers) == brute_force(data, window)


@pytest.mark.parametrize("workers", [1, 3])
def test_windows_go_to_the_parts_of_their_centers(workers):
    data = corpus()
    whole, _ = draw(data, workers, 4)
    halves, _ = draw(data, workers, 4, parts=2)
    for number, stream in enumerate(whole):
        for part in range(2):
            wanted = [(center // 2, contexts.tolist()) for center, contexts in groups(stream) if center % 2 == part]
            assert [(center, contexts.tolist()) for center, contexts in groups(halves[2 * number + part])] == wanted


def test_windows_go_to_the_worker_of_their_center():
    data, (shard, local) = corpus(), dealt(3)
    streams, _ = draw(data, 3, 4, by_center=True)
    named = {(s, r): token for token, (s, r) in enumerate(zip(shard.tolist(), local.tolist(), strict=True))}
    actual = Counter(
        (named[worker, int(center)], int(context))
        for worker, stream in enumerate(streams)
        for center, contexts in groups(stream)
        for context in contexts
    )
    assert actual == brute_force(data, 4)


def test_groups_are_as_large_as_their_window_allows():
    streams, _ = draw(corpus(), 1, 100)
    assert max(len(contexts) for _, contexts in groups(streams[0])) > 45
    assert min(len(contexts) for _, contexts in groups(streams[0])) >= 1


def test_streams_do_not_depend_on_how_they_are_cut():
    data = corpus(1)
    keep = windows.keep_thresholds(np.arange(1, VOCABULARY + 1), 0.01)
    for workers in (1, 3):
        whole, once = draw(data, workers, 4, True, keep)
        cut, often = draw(data, workers, 4, True, keep, room=windows.capacity(50, 4))
        assert once == 1 and often > 5
        assert all(np.array_equal(one, other) for one, other in zip(whole, cut, strict=True))


def test_draws_depend_on_the_seed_and_the_sequence_id_alone():
    tokens, offsets, ids = corpus(2)
    keep = windows.keep_thresholds(np.arange(1, VOCABULARY + 1), 0.01)
    lengths = np.diff(offsets)
    alone = [
        draw((tokens[begin:stop], np.array([0, stop - begin]), ids[i : i + 1]), 1, 4, True, keep)[0][0]
        for i, (begin, stop) in enumerate(itertools.pairwise(offsets))
    ]
    order = np.random.default_rng(0).permutation(len(ids))
    moved = np.concatenate([tokens[offsets[i] : offsets[i + 1]] for i in order])
    together = draw((moved, np.concatenate([[0], np.cumsum(lengths[order])]), ids[order]), 1, 4, True, keep)[0][0]
    assert np.array_equal(together, np.concatenate([alone[i] for i in order]))
    assert not np.array_equal(together, draw((moved, offsets, ids[order]), 1, 4, True, keep, seed=8)[0][0])
    assert not np.array_equal(alone[0], draw((tokens, offsets[:2], ids[:1] + 1), 1, 4, True, keep)[0][0])


def test_window_sizes_are_uniform():
    # Distinct ids far from the ends: a center's contexts tell its window.
    length, window = 40, 5
    sequences = 4000
    tokens = np.tile(np.arange(length, dtype=np.int32), sequences)
    offsets = np.arange(sequences + 1, dtype=np.int64) * length
    streams, _ = draw((tokens, offsets, np.arange(sequences)), 1, window, True, room=1 << 22)
    _, local = dealt(1)
    middle = {int(local[token]) for token in range(window, length - window)}
    sizes = Counter(len(contexts) // 2 for center, contexts in groups(streams[0]) if int(center) in middle)
    assert sorted(sizes) == [1, 2, 3, 4, 5]
    assert chisquare(list(sizes.values())).pvalue > 1e-4
    # Neighbors draw their windows independently of each other and of the subsampling.
    first, second = (
        [len(contexts) // 2 for center, contexts in groups(streams[0]) if center == local[token]] for token in (10, 11)
    )
    joint = Counter(zip(first, second, strict=True))
    assert chisquare([joint[i, j] for i in range(1, 6) for j in range(1, 6)]).pvalue > 1e-4


def test_frequent_tokens_are_thinned_out_as_in_word2vec():
    counts = (4 ** np.arange(1, 9)).astype(np.int64)
    sample = 1e-2
    share = counts / counts.sum()
    expected = np.minimum(1, (np.sqrt(share / sample) + 1) * sample / share)
    keep = windows.keep_thresholds(counts, sample)
    assert np.allclose((keep.astype(np.float64) + 1) / 2**32, expected, rtol=1e-6)
    assert keep[0] == 2**32 - 1
    sequences, length = 3000, 16
    tokens = np.tile(np.repeat(np.arange(8, dtype=np.int32), 2), sequences)
    offsets = np.arange(sequences + 1, dtype=np.int64) * length
    keep = np.concatenate([keep, np.zeros(VOCABULARY - 8, np.uint32)])
    streams, _ = draw((tokens, offsets, np.arange(sequences)), 1, 16, False, keep, room=1 << 21)
    # Every kept token is the center of one group, as the rarest are always kept and make a window.
    _, local = dealt(1)
    rest = Counter(int(center) for center, _ in groups(streams[0]))
    for token in range(8):
        seen = rest[int(local[token])]
        if expected[token] == 1:
            assert seen == 2 * sequences
        else:
            chance = [2 * sequences * expected[token], 2 * sequences * (1 - expected[token])]
            assert chisquare([seen, 2 * sequences - seen], chance).pvalue > 1e-4


def test_gensim_keeps_with_the_same_probability():
    gensim = pytest.importorskip("gensim.models")
    text = [[f"t{i}"] * (3**i) for i in range(1, 8)]
    model = gensim.Word2Vec(vector_size=4, min_count=1, sample=1e-2)
    model.build_vocab(text)
    counts = np.array([model.wv.get_vecattr(word, "count") for word in model.wv.index_to_key])
    theirs = np.array([model.wv.get_vecattr(word, "sample_int") for word in model.wv.index_to_key], np.float64)
    assert np.allclose(windows.keep_thresholds(counts, 1e-2) / 2**32, theirs / 2**32, atol=1e-6)


def test_a_sequence_that_can_never_fit_is_an_error():
    tokens, offsets, ids = np.zeros(30, np.int32), np.array([0, 30]), np.array([1])
    with pytest.raises(ValueError, match="capacity"):
        draw((tokens, offsets, ids), 1, 5, room=100)
    assert draw((tokens, offsets, ids), 1, 5, room=windows.capacity(30, 5))[1] == 1
    assert windows.max_length(windows.capacity(30, 5), 5) == 30


def test_sequences_of_one_token_and_of_many():
    tokens, offsets = np.arange(30_002, dtype=np.int32) % VOCABULARY, np.array([0, 0, 1, 30_001, 30_002])
    streams, _ = draw((tokens, offsets, np.arange(4)), 1, 2, room=1 << 20)
    assert sum(1 for _ in groups(streams[0])) == 30_000


def test_read_only_arrays_are_taken():
    data = corpus(3)
    for array in data:
        array.flags.writeable = False
    assert draw(data, 2)[1] == 1
