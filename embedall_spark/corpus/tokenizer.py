"""Text to sequences of tokens, an Arrow batch at a time. Knows no Spark."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from embedall_spark import list_offsets
from embedall_spark.config import Section
from embedall_spark.corpus import short_text
from embedall_spark.randomness import mix_arrays
from embedall_spark.vectors import text_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

EMPTY = "empty document"
NO_TOKEN = "no token"
_RECORD_LENGTH = 200
_SHORT = 1 << 12  # bytes of Arrow that are split in plain Python


class TokensConfig(Section):
    """How text becomes sequences of tokens."""

    lower: bool = Field(True, description="lower-case the text before it is split, character by character")
    min_length: int = Field(1, ge=1, description="shorter tokens are left out; in characters")
    split: Literal["unicode", "whitespace", "regex"] = Field(
        "unicode",
        description="unicode: runs of letters, numbers and marks, with single apostrophes and hyphens inside; "
        "whitespace: the text between white space; regex: the matches of `pattern`",
    )
    pattern: str | None = Field(
        None, description="with split: regex, a Python pattern for re.findall, with at most one group"
    )
    boundaries: Literal["document", "sentence"] = Field(
        "document",
        description="a sequence is a document, or a sentence of it (ended by . ! ? … before white space, "
        "by their full-width forms or by a line break)",
    )
    max_sequence_length: int = Field(
        10_000, ge=2, le=1_000_000, description="longer sequences are cut into several; in tokens"
    )

    @model_validator(mode="after")
    def _check_pattern(self) -> Self:
        if (self.pattern is not None) != (self.split == "regex"):
            raise ValueError(
                f"pattern goes with split: regex, and with nothing else; found pattern {self.pattern!r} and split: "
                f"{self.split}"
            )
        if self.pattern is None:
            return self
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r} is not a Python regular expression: {error}") from None
        if groups > 1:
            raise ValueError(f"pattern {self.pattern!r} has {groups} groups, at most 1 is allowed; use (?:...)")
        return self


class Sequences(NamedTuple):
    """Token sequences, flat."""

    ids: NDArray[np.int64]
    """One per sequence, int64 [n]."""
    offsets: NDArray[np.int64]
    """Where each sequence begins in ``tokens``, and where the last one ends, int64 [n + 1]."""
    tokens: pa.StringArray
    """The tokens of all sequences in order."""


class Reject(NamedTuple):
    """A refused row; the columns of REJECTS."""

    origin: str | None
    reason: str
    record: str | None


def tokenize(batch: pa.RecordBatch, config: TokensConfig) -> tuple[Sequences, list[Reject]]:
    """Return the token sequences of a batch of DOCUMENTS, in its order, and the refused rows.

    A document's first sequence has the document's id, each further one a hash of that id and its number. Rows are
    refused that have a ``problem`` (the text after its first ": " becomes the record), no text, broken UTF-8, or no
    token; the other rows are not affected.
    """
    raw = batch.column("text").cast(pa.binary())
    refused = _refuse(raw, batch.column("problem"))
    rows = np.setdiff1d(np.arange(len(raw)), np.fromiter(refused, np.int64, len(refused)))
    good = (raw.take(pa.array(rows)) if refused else raw).cast(pa.string())
    owners, counts, tokens = _split(pc.utf8_lower(good) if config.lower else good, config)
    without = np.setdiff1d(np.arange(len(good)), owners)
    blank = pc.equal(pc.binary_length(pc.utf8_trim_whitespace(good.take(pa.array(without)))), 0).to_pylist()
    refused |= {int(rows[row]): EMPTY if empty else NO_TOKEN for row, empty in zip(without, blank, strict=True)}
    ids = batch.column("id").to_numpy(zero_copy_only=False)[rows]
    sequences = _sequences(ids[owners], owners, counts, tokens, config.max_sequence_length)
    return sequences, [_reject(batch, raw, row, refused[row]) for row in sorted(refused)]


def _refuse(raw: pa.BinaryArray, problems: pa.StringArray) -> dict[int, str]:
    """Return the reason for every row that cannot be split, by its index."""
    refused = {int(row): "null" for row in np.flatnonzero(raw.is_null().to_numpy(zero_copy_only=False))}
    reported = np.flatnonzero(problems.is_valid().to_numpy(zero_copy_only=False))
    refused |= {int(row): problems[int(row)].as_py() for row in reported}
    try:
        raw.cast(pa.string())
    except pa.ArrowInvalid:
        # Arrow only says that some row is broken, not which.
        refused |= {
            row: "broken UTF-8" for row in range(len(raw)) if row not in refused and not _is_utf8(raw[row].as_py())
        }
    return refused


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _reject(batch: pa.RecordBatch, raw: pa.BinaryArray, row: int, reason: str) -> Reject:
    # 200 characters take at most 800 bytes; a last character that the cut breaks is beyond the 200.
    start = pc.binary_slice(raw.slice(row, 1), 0, 4 * _RECORD_LENGTH)[0].as_py()
    reason, _, detail = reason.partition(": ")
    record = detail if start is None else start.decode("utf-8", "replace")
    return Reject(batch.column("origin")[row].as_py(), reason, record[:_RECORD_LENGTH] or None)


def _split(text: pa.StringArray, config: TokensConfig) -> tuple[NDArray[np.int64], NDArray[np.int64], pa.StringArray]:
    """Return the row and the number of tokens of each segment that has any, and the tokens of all segments."""
    if _is_short(text, config):
        found = [short_text.words(part, config.split == "whitespace", config.min_length) for part in text.to_pylist()]
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        return np.flatnonzero(lengths), lengths[lengths > 0], text_array([word for part in found for word in part])
    # Imported here: its compiler takes a second, which questions need not wait.
    from embedall_spark.corpus import word_scanner

    data = np.frombuffer(text.buffers()[2] or b"", np.uint8)
    documents = np.frombuffer(text.buffers()[1] or bytes(4), np.int32)[text.offset : text.offset + len(text) + 1]
    # Arrow's buffers may be writable or not: make all read-only, or the kernels compile twice.
    data.flags.writeable = documents.flags.writeable = False
    segments = documents
    if config.boundaries == "sentence":
        cuts = np.empty(len(data) + 1, np.int32)
        count = word_scanner.cut_sentences(
            data, documents, word_scanner.code_point_classes(config.split == "whitespace"), cuts
        )
        segments = cuts[: count + 1].copy()
        segments.flags.writeable = False
    if config.split == "regex":
        counts, tokens = _find_all(data, segments, config)
    else:
        counts, tokens = _scan(data, segments, config)
    filled = counts > 0
    # Of documents that begin at the same byte all but the last are empty.
    owners = np.searchsorted(documents, segments[:-1], side="right") - 1
    return owners[filled], counts[filled], tokens


def _is_short(text: pa.StringArray, config: TokensConfig) -> bool:
    """Return whether to load the scanner's compiler would take longer than to split a text without it."""
    plain = config.boundaries == "document" and config.split != "regex"
    return plain and "numba" not in sys.modules and text.nbytes < _SHORT


def _scan(
    data: NDArray[np.uint8], segments: NDArray[np.int32], config: TokensConfig
) -> tuple[NDArray[np.int64], pa.StringArray]:
    from embedall_spark.corpus import word_scanner

    size = int(segments[-1] - segments[0])
    out = np.empty(size, np.uint8)
    offsets = np.empty(size // 2 + len(segments) + 1, np.int32)
    counts = np.zeros(len(segments) - 1, np.int64)
    table = word_scanner.code_point_classes(config.split == "whitespace")
    total = word_scanner.copy_words(data, segments, table, config.min_length, out, offsets, counts)
    # Copies, because the arrays are several times larger than their contents.
    buffers = [None, pa.py_buffer(offsets[: total + 1].copy()), pa.py_buffer(out[: offsets[total]].copy())]
    return counts, pa.Array.from_buffers(pa.string(), total, buffers)


def _find_all(
    data: NDArray[np.uint8], segments: NDArray[np.int32], config: TokensConfig
) -> tuple[NDArray[np.int64], pa.StringArray]:
    find = re.compile(config.pattern or "").findall
    text = pa.Array.from_buffers(pa.string(), len(segments) - 1, [None, pa.py_buffer(segments), pa.py_buffer(data)])
    matches = [[token for token in find(segment.as_py()) if len(token) >= config.min_length] for segment in text]
    tokens = pa.array([token for segment in matches for token in segment], pa.string())
    return np.fromiter(map(len, matches), np.int64, len(matches)), tokens


def _sequences(
    ids: NDArray[np.int64],
    owners: NDArray[np.int64],
    counts: NDArray[np.int64],
    tokens: pa.StringArray,
    max_length: int,
) -> Sequences:
    """Return the sequences of all segments, those that are too long cut, with an id for each."""
    pieces = -(-counts // max_length)
    lengths = np.full(int(pieces.sum()), max_length, np.int64)
    lengths[np.cumsum(pieces) - 1] = counts - (pieces - 1) * max_length
    ids, owners = np.repeat(ids, pieces), np.repeat(owners, pieces)
    numbers = np.arange(len(owners)) - np.searchsorted(owners, owners, side="left")
    ids = np.where(numbers == 0, ids, mix_arrays(ids, numbers))
    return Sequences(ids, list_offsets.from_lengths(lengths), tokens)
