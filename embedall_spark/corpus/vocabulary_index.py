"""Tokens to ids and back, from files that all Python workers of a host map into memory: no broadcast, no dictionary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedall_spark import host_cache, list_offsets
from embedall_spark.corpus import hash_table
from embedall_spark.errors import BadData

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow.fs as pafs
    from numpy.typing import NDArray

    from embedall_spark.corpus.hash_table import Bytes, Ints, Longs, Words

_ROWS = 65_536
# One open index per folder, for the tasks that share a Python worker.
_OPEN: dict[str, tuple[str, VocabularyIndex]] = {}


class VocabularyIndex:
    """The tokens of a VOCABULARY with their ids and counts; see ``open``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._text: Bytes = host_cache.mapped(folder / "text", np.uint8)
        self._offsets: Longs = host_cache.mapped(folder / "offsets", np.int64)
        self._slots: Words = host_cache.mapped(folder / "slots", np.uint64)
        self.counts: Longs = host_cache.mapped(folder / "counts", np.int64)

    @classmethod
    def open(cls, folder: str) -> VocabularyIndex:
        """Return the index of a folder of VOCABULARY parquet files (path or URI), which are ordered by id.

        The first process of a host writes it to the host's own disk; all of them share that copy in memory.

        Raises:
            BadData: the folder has no parquet files, or their ids are not 0, 1, 2 ... in the order of the files.
        """
        copy, key = host_cache.make("token-index", folder, _write)
        opened = _OPEN.get(folder)
        if opened is None or opened[0] != key:
            _OPEN[folder] = opened = (key, cls(copy))
        return opened[1]

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.counts)

    @property
    def text(self) -> tuple[Bytes, Longs]:
        """The tokens' UTF-8 bytes one after the other, and where each begins, int64 [V + 1]."""
        return self._text, self._offsets

    def ids(self, tokens: pa.StringArray) -> Ints:
        """Return the tokens' ids, int32 [n]; -1 for a token that is not in the vocabulary."""
        text, offsets = string_buffers(tokens)
        ids = np.empty(len(tokens), np.int32)
        hash_table.lookup(self._slots, self._text, self._offsets, text, offsets, ids)
        return ids

    def tokens(self, ids: NDArray[np.integer]) -> pa.StringArray:
        """Return the tokens of ids, which must be in ``range(size)``.

        Raises:
            IndexError: an id is out of range.
            ValueError: the tokens have more than 2 GiB together; pass fewer ids at a time.
        """
        rows = np.ascontiguousarray(ids, np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= self.size):
            raise IndexError(f"ids must be in 0..{self.size - 1}, found {rows.min()}..{rows.max()}")
        offsets = list_offsets.from_lengths(self._offsets[rows + 1] - self._offsets[rows])
        if offsets[-1] >= 2**31:
            raise ValueError(f"{len(rows)} tokens have {offsets[-1]} bytes, over 2 GiB; pass fewer ids at a time")
        text = np.empty(offsets[-1], np.uint8)
        hash_table.gather(self._text, self._offsets, rows, offsets, text)
        return pa.StringArray.from_buffers(len(rows), pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(text))

    def hashes(self, ids: NDArray[np.int32]) -> Longs:
        """Return a hash of the token of each id, int64 [n]; it does not depend on the other tokens."""
        hashes = np.empty(len(ids), np.int64)
        hash_table.hashes(self._text, self._offsets, ids, hashes)
        return hashes


def ids_in(folder: str) -> NDArray[np.int32]:
    """Return the ids that a stage has, int32 [n], ascending; each host keeps a copy that all tasks map."""
    copy, _ = host_cache.make("ids", folder, _write_ids)
    return host_cache.mapped(copy / "ids", np.int32)


def _write_ids(filesystem: pafs.FileSystem, parts: list[str], folder: Path) -> None:
    ids = [pq.read_table(part, columns=["id"], filesystem=filesystem)["id"].to_numpy() for part in parts]
    np.sort(np.concatenate([np.zeros(0, np.int32), *ids])).astype(np.int32).tofile(folder / "ids")


def _write(filesystem: pafs.FileSystem, parts: list[str], folder: Path) -> None:
    """Write the tokens' bytes, offsets and counts as a stream, then the hash table over them."""
    size = end = 0
    with (folder / "text").open("wb") as text, (folder / "offsets").open("wb") as offsets:
        offsets.write(np.zeros(1, np.int64).data)
        with (folder / "counts").open("wb") as counts:
            for part in parts:
                with filesystem.open_input_file(part) as source:
                    for batch in pq.ParquetFile(source).iter_batches(_ROWS, columns=["id", "token", "count"]):
                        ids = batch.column("id").to_numpy()
                        if not np.array_equal(ids, np.arange(size, size + len(ids))):
                            raise BadData(f"{part}: need ids {size}, {size + 1} ... in this order, found {ids[:3]} ...")
                        data, ends = string_buffers(batch.column("token"))
                        text.write(data.data)
                        offsets.write((ends[1:] + end).data)
                        counts.write(batch.column("count").to_numpy())
                        size, end = size + len(ids), end + int(ends[-1])
    text_bytes, ends = host_cache.mapped(folder / "text", np.uint8), host_cache.mapped(folder / "offsets", np.int64)
    slots = np.memmap(folder / "slots", np.uint64, "w+", shape=(hash_table.slots_size(size),))
    hash_table.build(slots.view(np.ndarray), text_bytes, ends)
    slots.flush()


def string_buffers(tokens: pa.StringArray) -> tuple[Bytes, Longs]:
    """Return the bytes of strings one after the other, and int64 offsets into them that begin with 0."""
    width = np.dtype(np.int64 if pa.types.is_large_string(tokens.type) else np.int32)
    _, offsets, data = tokens.buffers()
    if not len(tokens) or offsets is None or data is None:
        return np.empty(0, np.uint8), np.zeros(len(tokens) + 1, np.int64)
    ends = np.frombuffer(offsets, width, len(tokens) + 1, tokens.offset * width.itemsize).astype(np.int64)
    return np.frombuffer(data, np.uint8)[ends[0] : ends[-1]], ends - ends[0]
