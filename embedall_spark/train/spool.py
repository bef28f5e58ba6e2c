"""A worker's windows on local disk, read back block by block in an order that does not depend on Spark."""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedall_spark import files

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from numpy.typing import NDArray


class Spool:
    """A file of chunks in the order of their arrival, and an index of them."""

    def __init__(self, folder: Path) -> None:
        """Create an empty spool in a folder."""
        self._file = (folder / "chunks").open("w+b", buffering=1 << 20)
        self._index: dict[tuple[int, int], list[tuple[int, int, int, int]]] = defaultdict(list)
        self.size = 0

    @classmethod
    @contextmanager
    def of(cls, run_id: str) -> Iterator[Spool]:
        """Yield a spool that is deleted at the end of the block; spools of killed workers are deleted before."""
        files.sweep("spool")
        folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=files.scratch("spool", run_id)))
        try:
            spool = cls(folder)
            yield spool
            spool._file.close()
        finally:
            files.remove_tree(folder)

    def add(self, batch: pa.RecordBatch) -> None:
        """Append a batch of chunks (worker, episode, shard, block, number, stream)."""
        _, episodes, shards, blocks, numbers, streams = batch.columns
        rows = zip(*(column.to_pylist() for column in (episodes, shards, blocks, numbers)), strict=True)
        for row, (episode, shard, block, number) in enumerate(rows):
            content = streams[row].as_buffer()
            self._file.write(content)
            self._index[episode, shard].append((block, number, self.size, content.size))
            self.size += content.size

    def ints(self, episode: int, shard: int) -> int:
        """Return the number of ints of a block's windows."""
        return sum(size for *_, size in self._index[episode, shard]) // 4

    def chunks(self, episode: int, shard: int) -> Iterator[NDArray[np.int32]]:
        """Yield the chunks of a block, int32, by sequence block and number."""
        self._file.flush()
        for _, _, offset, size in sorted(self._index[episode, shard]):
            stream = np.empty(size // 4, np.int32)
            if os.preadv(self._file.fileno(), [stream.view(np.uint8).data], offset) != size:
                raise OSError("the spool of windows is shorter than what was written to it; is the local disk full?")
            yield stream
