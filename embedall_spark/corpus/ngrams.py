"""Character n-grams of words, hashed into buckets as fastText and gensim do.

Bojanowski et al. 2017, "Enriching Word Vectors with Subword Information", section 3.2. A word's n-grams are those of
"<word>", cut between characters.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numba
import numpy as np
import pyarrow as pa

from embedall_spark import host_cache
from embedall_spark.corpus.vocabulary_index import VocabularyIndex, string_buffers

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from embedall_spark.corpus.hash_table import Bytes, Ints, Longs


MAX_BUCKETS = 1 << 27


class Lengths(NamedTuple):
    """Which n-grams there are, and how many buckets they share."""

    min_n: int
    """Fewest characters of an n-gram."""
    max_n: int
    """Most characters of an n-gram; 0: there are no n-grams."""
    bucket: int
    """Number of buckets."""

    def estimate(self, tokens: int) -> tuple[int, int]:
        """Return how many n-grams a vocabulary of so many words has, and how many buckets they use, roughly."""
        if not self.max_n:
            return 0, 0
        # Fitted to English words of Wikipedia with n-grams of 3 to 6 characters, see docs/log.md.
        lengths = self.max_n - self.min_n + 1
        distinct = 9 * lengths * tokens**0.82
        return 6 * lengths * tokens, round(self.bucket * -math.expm1(-distinct / self.bucket))


class NgramIndex(NamedTuple):
    """The n-grams of a vocabulary: those buckets that it uses are numbered in their order."""

    offsets: Longs
    """Where each token's n-grams begin in ``rows``, int64 [V + 1]."""
    rows: Ints
    """The numbers of their buckets, int32; a bucket occurs as often as the token has n-grams in it."""
    buckets: Ints
    """The used buckets, rising, int32 [U]."""

    @classmethod
    def open(cls, folder: str, lengths: Lengths) -> NgramIndex:
        """Return the n-grams of a folder of VOCABULARY parquet files; all processes of a host map one copy."""
        vocabulary = VocabularyIndex.open(folder)
        key = "-".join([host_cache.parts(folder)[1], *map(str, lengths)])
        copy = host_cache.cached("ngrams", key, lambda draft: _write(draft, vocabulary, lengths))
        return cls(*(host_cache.mapped(copy / name, kind) for name, kind in _FILES.items()))


_FILES: dict[str, type[np.generic]] = {"offsets": np.int64, "rows": np.int32, "buckets": np.int32}
NO_NGRAMS = NgramIndex(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32))
"""For training without n-grams."""


def buckets_of(tokens: pa.StringArray, lengths: Lengths) -> tuple[Longs, Ints]:
    """Return where each token's n-grams begin, int64 [n + 1], and their buckets, int32, in the order of fastText."""
    return _buckets(*string_buffers(tokens), *lengths)


def _write(draft: Path, vocabulary: VocabularyIndex, lengths: Lengths) -> None:
    offsets, found = _buckets(*vocabulary.text, *lengths)
    number = np.zeros(lengths.bucket, np.int32)
    number[found] = 1
    used = np.flatnonzero(number).astype(np.int32)
    number[used] = np.arange(len(used), dtype=np.int32)
    for name, values in (("offsets", offsets), ("rows", number[found]), ("buckets", used)):
        values.tofile(draft / name)


@numba.njit(nogil=True, cache=True)
def _ngrams(
    word: NDArray[np.uint8], size: int, min_n: int, max_n: int, bucket: int, into: NDArray[np.int32], first: int
) -> int:
    """Write the buckets of a word with its boundaries into an array if it has room; return their number."""
    count = 0
    for start in range(size):
        if word[start] & 0xC0 == 0x80:  # not the first byte of a character
            continue
        # FNV-1a, with bytes extended as signed numbers.
        state, stop, characters = np.uint32(2166136261), start, 0
        while stop < size and characters < max_n:
            characters += 1
            while True:
                state = np.uint32((state ^ np.uint32(np.int8(word[stop]))) * np.uint32(16777619))
                stop += 1
                if stop >= size or word[stop] & 0xC0 != 0x80:
                    break
            # A boundary alone is no n-gram.
            if characters >= min_n and not (characters == 1 and (start == 0 or stop == size)):
                if first + count < len(into):
                    into[first + count] = np.int32(state % np.uint32(bucket))
                count += 1
    return count


@numba.njit(nogil=True, cache=True)
def _buckets(
    text: Bytes, offsets: Longs, min_n: int, max_n: int, bucket: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return offsets and buckets of the n-grams of texts that lie one after the other."""
    ends = np.zeros(len(offsets), np.int64)
    longest = 0
    for token in range(len(offsets) - 1):
        longest = max(longest, offsets[token + 1] - offsets[token])
    word = np.empty(longest + 2, np.uint8)
    word[0] = 60  # <
    result = np.empty(0, np.int32)
    for again in range(2):
        for token in range(len(offsets) - 1):
            size = offsets[token + 1] - offsets[token]
            word[1 : size + 1] = text[offsets[token] : offsets[token + 1]]
            word[size + 1] = 62  # >
            first = ends[token] if again else 0
            count = _ngrams(word, size + 2, min_n, max_n, bucket, result, first)
            if not again:
                ends[token + 1] = ends[token] + count
        if not again:
            result = np.empty(ends[-1], np.int32)
    return ends, result
