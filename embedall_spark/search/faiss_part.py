"""One part of an approximate index: a faiss index in a file, built and searched in a task."""

from __future__ import annotations

import shutil
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedall_spark import files, host_cache
from embedall_spark.errors import TableError
from embedall_spark.search import mapped_vectors
from embedall_spark.search.exact_batch import own_rows, to_hits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from embedall_spark.search.mapped_vectors import Packed, Source

    Batches = Iterable[pa.RecordBatch]

SMALL = 20_000  # rows up to which all are compared: lists would not be faster
_ITERATIONS, _PER_LIST = 10, 64  # of k-means, and training rows per list
_QUERIES = 8192  # at once
_BUILT = ["part", "rows", "lists"]


def lists(rows: int, small: int = SMALL) -> int:
    """Return the number of inverted lists of a part of so many rows; 1: all rows are compared."""
    return 1 if rows <= small else round(4 * rows**0.5)


def builder(folder: str, d: int, small: int, seed: int) -> Callable[[Batches], Batches]:
    """Build the task's function that indexes a partition's rows of part, id and vector; it returns _BUILT."""

    def build(batches: Batches) -> Iterator[pa.RecordBatch]:
        part = -1

        def rows() -> Iterator[pa.RecordBatch]:
            nonlocal part
            for batch in batches:
                part = batch["part"][0].as_py() if batch.num_rows else part
                yield batch.select(["id", "vector"])

        # In the order of ids, so that the same rows give the same index.
        with mapped_vectors.task_threads(), mapped_vectors.ordered(rows(), d) as packed:
            if len(packed.ids):
                number = lists(len(packed.ids), small)
                _save(_index(packed.matrix, number, seed), packed.ids, f"{folder}/{part:05}")
                values = (part, len(packed.ids), number)
                yield pa.record_batch([pa.array([value], pa.int32()) for value in values], names=_BUILT)

    return build


def searcher(
    folder: str, parts: frozenset[int], probes: int, source: Source, k: int, exclude_same_id: bool
) -> Callable[[Batches], Batches]:
    """Build the task's function that searches the part which its rows, part and id, name.

    Only these ids are found; a row without an id means all ids of its part.
    """

    def search(batches: Batches) -> Iterator[pa.RecordBatch]:
        part, wanted = -1, []
        for batch in batches:
            part = batch["part"][0].as_py() if batch.num_rows else part
            wanted.append(batch["id"])
        if part not in parts:
            return
        with mapped_vectors.task_threads():
            index, ids = _load(f"{folder}/{part:05}")
            names = pa.concat_arrays(wanted)
            only = None if names.null_count else pc.is_in(ids, value_set=names).to_numpy(zero_copy_only=False)
            yield from _best(index, ids, source(), k, probes, only, exclude_same_id)

    return search


def _best(
    index: Any,
    ids: pa.Array,
    queries: Packed,
    k: int,
    probes: int,
    only: NDArray[np.bool_] | None,
    exclude_same_id: bool,
) -> Iterator[pa.RecordBatch]:
    """Yield the best ``k`` of one part for every query; ``only``, bool [n], tells which rows count."""
    same_id = own_rows(queries, mapped_vectors.Packed(ids, queries.matrix)) if exclude_same_id else None
    reach = min(len(ids), k + exclude_same_id)
    options = _options(index, probes, only)
    for start in range(0, len(queries.ids), _QUERIES):
        scores, rows = index.search(queries.matrix[start : start + _QUERIES], reach, params=options)
        if same_id is not None:
            rows[rows == same_id[start : start + len(rows), None]] = -1
        yield to_hits(queries, start, ids, rows, scores)


def _options(index: Any, probes: int, only: NDArray[np.bool_] | None) -> Any:
    """Return faiss's parameters of a search."""
    faiss = _faiss()
    selection: dict[str, Any] = {}
    if only is not None:
        selection["sel"] = faiss.IDSelectorBitmap(np.packbits(only, bitorder="little"))
    if not isinstance(index, faiss.IndexIVF):
        return faiss.SearchParameters(**selection)
    if only is not None:
        # The fewer rows count, the more lists it takes to find as many of them.
        probes = -(-probes * len(only) // max(1, int(only.sum())))
    return faiss.SearchParametersIVF(nprobe=min(probes, index.nlist), **selection)


def _index(matrix: NDArray[np.float32], nlist: int, seed: int) -> Any:
    """Return a faiss index of unit rows: inverted lists (Sivic and Zisserman 2003) around k-means, or all rows."""
    faiss = _faiss()
    d = matrix.shape[1]
    index = faiss.IndexFlatIP(d)
    if nlist > 1:
        index = faiss.IndexIVFFlat(index, d, nlist, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed, index.cp.niter, index.cp.max_points_per_centroid = seed, _ITERATIONS, _PER_LIST
        index.cp.spherical = True
        index.train(matrix)
    index.add(matrix)
    return index


def _save(index: Any, ids: pa.Array, path: str) -> None:
    """Write an index and its ids; each file appears whole, even if another attempt of the task writes it too."""
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
    """Return a part's index and ids, both memory-mapped: the tasks of a host share their pages."""
    faiss = _faiss()
    index = faiss.read_index(str(_local(f"{path}.faiss")), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    if isinstance(index, faiss.IndexIVF):
        # Threads that prefetch lists would use cores of other tasks.
        faiss.downcast_InvertedLists(index.invlists).prefetch_nthread = 0
    return index, mapped_vectors.mapped_ids(_local(f"{path}.ids"))


def _faiss() -> Any:
    """Return faiss: imported late, since no other command needs it, and untyped, since its types are incomplete."""
    import faiss

    return faiss


def _local(uri: str) -> Path:
    """Return a file of the index as one of this host.

    Raises:
        TableError: there is no such file.
    """
    if not files.exists(uri):
        raise TableError(f"{uri}: this part of the index is gone; was it rebuilt meanwhile? run the search again")
    return host_cache.copy_file("parts", uri)
