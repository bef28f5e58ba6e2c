"""One part of an approximate index: a faiss index in a file, built and searched in a task."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedall_spark import files
from embedall_spark.errors import TableError
from embedall_spark.search import mapped_vectors
from embedall_spark.search.exact_batch import found_batch, own_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from embedall_spark.search.mapped_vectors import Packed, Source

    Batches = Iterable[pa.RecordBatch]

SMALL = 20_000  # rows up to which all are looked at: lists would not be faster
_ROUNDS, _PER_LIST = 10, 64  # of k-means, and rows it learns from for each list
_QUERIES = 8192  # at once
_UNUSED_SECONDS = 2 * 24 * 3600
_BUILT = ["part", "rows", "lists"]


def lists(rows: int, small: int = SMALL) -> int:
    """Return how many inverted lists a part of so many rows has; 1: all rows are looked at."""
    return 1 if rows <= small else round(4 * rows**0.5)


def builder(folder: str, d: int, small: int, seed: int) -> Callable[[Batches], Batches]:
    """Build the task's function that indexes a partition's rows of part, id and vector, and tells what it made."""

    def build(batches: Batches) -> Iterator[pa.RecordBatch]:
        part = -1

        def rows() -> Iterator[pa.RecordBatch]:
            nonlocal part
            for batch in batches:
                part = batch["part"][0].as_py() if batch.num_rows else part
                yield batch.select(["id", "vector"])

        # In the order of ids, so that the same rows give the same index.
        with mapped_vectors.task_threads(), mapped_vectors.ordered(rows(), d) as found:
            if len(found.ids):
                number = lists(len(found.ids), small)
                _save(_index(found.matrix, number, seed), found.ids, f"{folder}/{part:05}")
                made = (part, len(found.ids), number)
                yield pa.record_batch([pa.array([value], pa.int32()) for value in made], names=_BUILT)

    return build


def searcher(
    folder: str, known: frozenset[int], probes: int, source: Source, k: int, exclude_same_id: bool
) -> Callable[[Batches], Batches]:
    """Build the task's function that asks the part of its rows, which are part and id.

    Where ids are given, only they are looked for; a row without an id stands for all of its part.
    """

    def search(batches: Batches) -> Iterator[pa.RecordBatch]:
        part, wanted = -1, []
        for batch in batches:
            part = batch["part"][0].as_py() if batch.num_rows else part
            wanted.append(batch["id"])
        if part not in known:
            return
        with mapped_vectors.task_threads():
            index, ids = _load(f"{folder}/{part:05}")
            some = pa.concat_arrays(wanted)
            only = None if some.null_count else pc.is_in(ids, value_set=some).to_numpy(zero_copy_only=False)
            yield from _ask(index, ids, source(), k, probes, only, exclude_same_id)

    return search


def _ask(
    index: Any,
    ids: pa.Array,
    queries: Packed,
    k: int,
    probes: int,
    only: NDArray[np.bool_] | None,
    exclude_same_id: bool,
) -> Iterator[pa.RecordBatch]:
    """Yield the best ``k`` of one part for every query; of its rows ``only`` those that are true, bool [n]."""
    own = own_rows(queries, mapped_vectors.Packed(ids, queries.matrix)) if exclude_same_id else None
    reach = min(len(ids), k + exclude_same_id)
    options = _options(index, probes, only)
    for start in range(0, len(queries.ids), _QUERIES):
        scores, rows = index.search(queries.matrix[start : start + _QUERIES], reach, params=options)
        if own is not None:
            rows[rows == own[start : start + len(rows), None]] = -1
        yield found_batch(queries, start, ids, rows, scores)


def _options(index: Any, probes: int, only: NDArray[np.bool_] | None) -> Any:
    """Return faiss's parameters of a search."""
    faiss = _faiss()
    chosen: dict[str, Any] = {}
    if only is not None:
        chosen["sel"] = faiss.IDSelectorBitmap(np.packbits(only, bitorder="little"))
    if not isinstance(index, faiss.IndexIVF):
        return faiss.SearchParameters(**chosen)
    if only is not None:
        # With fewer rows to find in each list, so many more lists hold as many of them.
        probes = -(-probes * len(only) // max(1, int(only.sum())))
    return faiss.SearchParametersIVF(nprobe=min(probes, index.nlist), **chosen)


def _index(matrix: NDArray[np.float32], number: int, seed: int) -> Any:
    """Return a faiss index of unit rows: inverted lists (Sivic and Zisserman 2003) around k-means, or all rows."""
    faiss = _faiss()
    d = matrix.shape[1]
    index = faiss.IndexFlatIP(d)
    if number > 1:
        index = faiss.IndexIVFFlat(index, d, number, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed, index.cp.niter, index.cp.max_points_per_centroid = seed, _ROUNDS, _PER_LIST
        index.cp.spherical = True
        index.train(matrix)
    index.add(matrix)
    return index


def _save(index: Any, ids: pa.Array, path: str) -> None:
    """Write an index and its ids; each file appears whole, also where another attempt of the task writes it too."""
    faiss = _faiss()
    draft = files.scratch("index") / uuid.uuid4().hex
    draft.mkdir()
    try:
        faiss.write_index(index, str(draft / "faiss"))
        mapped_vectors.write_ids(ids, draft / "ids")
        for name in ("faiss", "ids"):
            with (draft / name).open("rb") as source, files.create(f"{path}.{name}") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    finally:
        files.remove_tree(draft)


def _load(path: str) -> tuple[Any, pa.Array]:
    """Return a part's index and ids, both mapped: pages that the tasks of a host share."""
    faiss = _faiss()
    index = faiss.read_index(str(_local(f"{path}.faiss")), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    if isinstance(index, faiss.IndexIVF):
        # Threads that read lists ahead would use cores of other tasks.
        faiss.downcast_InvertedLists(index.invlists).prefetch_nthread = 0
    return index, mapped_vectors.mapped_ids(_local(f"{path}.ids"))


def _faiss() -> Any:
    """Return faiss; imported late, since no other command needs it, and without its types, which lack half of it."""
    import faiss

    return faiss


def _local(uri: str) -> Path:
    """Return a file of the index as one of this host; the first process to come copies it from shared storage.

    Raises:
        TableError: there is no such file.
    """
    filesystem, inside = files.resolve(uri)
    if not files.exists(uri):
        raise TableError(f"{uri}: this part of the index is gone; was it rebuilt meanwhile? run the search again")
    if files.is_local(uri):
        return Path(inside)
    home = files.scratch("parts", hashlib.sha256(uri.encode()).hexdigest()[:24])
    os.utime(home)
    copy = home / "copy"
    with files.lock(home):
        if not copy.exists():
            files.expire("parts", _UNUSED_SECONDS)
            draft = home / uuid.uuid4().hex
            with filesystem.open_input_stream(inside) as source, draft.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            draft.rename(copy)
    return copy
