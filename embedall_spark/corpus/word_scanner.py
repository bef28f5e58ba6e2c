"""Numba kernels that find words and sentences in UTF-8 bytes, by a table of code point classes. Knows no Spark."""

from __future__ import annotations

import functools
import sys
import unicodedata
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from embedall_spark.corpus.short_text import JOINERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Classes of code points, in the low two bits of a table's entry.
OUTSIDE, WORD, MARK, JOINER = 0, 1, 2, 3
_CLASS = 3
# Flags above them, which only the sentence splitter reads.
MAY_END, ENDS, CLOSES, BLANK = 4, 8, 16, 32

MAY_END_MARKS = ".!?…"
END_MARKS = "\u3002\uff01\uff1f\n\r\v\f\u0085\u2028\u2029"


@functools.cache
def code_point_classes(whitespace: bool) -> NDArray[np.uint8]:
    """Return the class and flags of every code point, uint8 [0x110000], read-only.

    Args:
        whitespace: words consist of all characters but white space; otherwise of letters, numbers and marks.
    """
    points = [chr(code) for code in range(sys.maxunicode + 1)]
    category = np.frombuffer("".join(map(unicodedata.category, points)).encode(), np.uint8).reshape(-1, 2)
    major, minor = category[:, 0], category[:, 1]
    blank = np.fromiter((char.isspace() for char in points), np.bool_, len(points))
    table = np.zeros(len(points), np.uint8)
    if whitespace:
        table[~blank] = WORD
    else:
        table[np.isin(major, [ord("L"), ord("N")])] = WORD
        table[major == ord("M")] = MARK
        table[[ord(char) for char in JOINERS]] = JOINER
    table[blank] |= BLANK
    table[(major == ord("P")) & np.isin(minor, [ord("e"), ord("f")])] |= CLOSES
    for marks, flag in (("\"'", CLOSES), (MAY_END_MARKS, MAY_END), (END_MARKS, ENDS)):
        table[[ord(char) for char in marks]] |= flag
    table.flags.writeable = False
    return table


@njit(nogil=True, cache=True)
def _decode(data: NDArray[np.uint8], index: int) -> tuple[np.int64, int]:
    """Return the code point that starts at a byte of valid UTF-8, and its number of bytes."""
    first = np.int64(data[index])
    if first < 0x80:
        return first, 1
    if first < 0xE0:
        return (first & 0x1F) << 6 | np.int64(data[index + 1] & 0x3F), 2
    if first < 0xF0:
        return (first & 0x0F) << 12 | np.int64(data[index + 1] & 0x3F) << 6 | np.int64(data[index + 2] & 0x3F), 3
    high = (first & 0x07) << 18 | np.int64(data[index + 1] & 0x3F) << 12
    return high | np.int64(data[index + 2] & 0x3F) << 6 | np.int64(data[index + 3] & 0x3F), 4


@njit(nogil=True, cache=True)
def _begins_word(data: NDArray[np.uint8], index: int, end: int, table: NDArray[np.uint8]) -> bool:
    return index < end and table[_decode(data, index)[0]] & _CLASS == WORD


@njit(nogil=True, cache=True)
def cut_sentences(
    data: NDArray[np.uint8], documents: NDArray[np.int32], table: NDArray[np.uint8], cuts: NDArray[np.int32]
) -> int:
    """Cut documents into sentences and return the number of sentences.

    A sentence ends after . ! ? or … where white space follows (closing quotes and brackets may stand between), after
    the full-width marks of END_MARKS and after a line break.

    Args:
        data: valid UTF-8, uint8 [bytes].
        documents: where each document begins, and where the last one ends, int32 [documents + 1].
        table: from code_point_classes().
        cuts: receives documents[0] and every sentence's end, int32 [at least bytes + 1].
    """
    cuts[0] = documents[0]
    count = 0
    for document in range(len(documents) - 1):
        index, end = documents[document], documents[document + 1]
        may_end = False
        while index < end:
            code, width = _decode(data, index)
            kind = table[code]
            index += width
            # Most characters: nothing to remember, nothing to end.
            if not may_end and kind & (MAY_END | ENDS) == 0:
                continue
            if kind & ENDS or (may_end and kind & BLANK):
                count += 1
                cuts[count] = index
                may_end = False
            elif kind & MAY_END:
                may_end = True
            elif kind & CLOSES == 0:
                may_end = False
        if cuts[count] < end:
            count += 1
            cuts[count] = end
    return count


@njit(nogil=True, cache=True)
def copy_words(
    data: NDArray[np.uint8],
    segments: NDArray[np.int32],
    table: NDArray[np.uint8],
    min_length: int,
    out: NDArray[np.uint8],
    offsets: NDArray[np.int32],
    counts: NDArray[np.int64],
) -> int:
    """Copy the words of each segment, one after the other, and return the number of words.

    A word is WORD (WORD | MARK)*, and more of the same after a single JOINER. A mark without a letter before it (such
    as the variation selector after an emoji) makes no word.

    Args:
        data: valid UTF-8, uint8 [bytes].
        segments: where each segment begins, and where the last one ends, int32 [segments + 1].
        table: from code_point_classes().
        min_length: shorter words (in characters) are left out.
        out: receives the words' bytes, uint8 [bytes].
        offsets: receives where each word begins in ``out``, and where the last one ends, int32 [bytes / 2 + segments +
            1].
        counts: receives the number of words of each segment, int64 [segments].
    """
    written = count = 0
    offsets[0] = 0
    for segment in range(len(segments) - 1):
        index, end = segments[segment], segments[segment + 1]
        before = count
        while index < end:
            code, width = _decode(data, index)
            if table[code] & _CLASS != WORD:
                index += width
                continue
            start, characters = written, 0
            while index < end:
                # Most characters: a letter in ASCII.
                if data[index] < 0x80 and table[data[index]] & _CLASS == WORD:
                    out[written] = data[index]
                    written, index, characters = written + 1, index + 1, characters + 1
                    continue
                code, width = _decode(data, index)
                kind = table[code] & _CLASS
                if kind == OUTSIDE or (kind == JOINER and not _begins_word(data, index + width, end, table)):
                    break
                for _ in range(width):
                    out[written] = data[index]
                    written += 1
                    index += 1
                characters += 1
            if characters >= min_length:
                count += 1
                offsets[count] = written
            else:
                written = start
        counts[segment] = count - before
    return count
