"""PAGES: token sequences, dictionary-encoded a page at a time.

Text is tokenized once; later passes read only a page's codes (ints) and its distinct tokens. All are binary: a list of
strings would cost the JVM more than the tokenizing, each time that it reads or writes one.
"""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import functions as F
from pyspark.sql import types as T

from embedall_spark import host_cache, list_offsets
from embedall_spark.corpus.packed_ints import pack, unpack
from embedall_spark.corpus.token_counter import TokenCounter
from embedall_spark.corpus.tokenizer import EMPTY, NO_TOKEN, Reject, Sequences, TokensConfig, tokenize
from embedall_spark.corpus.vocabulary_index import string_buffers
from embedall_spark.schemas import REJECTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import pyarrow.fs as pafs
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from embedall_spark.sources.text_documents import TextDocuments

    Batches = Iterable[pa.RecordBatch]
    Table = Callable[[Batches], Batches]

# Of a page, which is a row of a stage's parquet files. The more tokens it has, the fewer of them are new to it, and the
# longer are the pieces of blocks that are cut from it.
PAGE_TOKENS = 1 << 20
# A page ends after the slice of input that fills it; Arrow's strings end at 2 GiB.
PAGE_BYTES = 32 << 20
_SLICE_BYTES = 1 << 20
_MAX_REJECTS = 4096

# The run's id is added where the rejects are written.
_REFUSED = T.StructType([field for field in REJECTS if field.name != "run_id"])
PAGES = T.StructType(
    [
        T.StructField("ids", T.BinaryType(), False, {"comment": "ids of the page's sequences, int64"}),
        T.StructField("lengths", T.BinaryType(), False, {"comment": "tokens in each sequence, packed"}),
        T.StructField("codes", T.BinaryType(), False, {"comment": "all tokens in order, packed indices into `tokens`"}),
        T.StructField("tokens", T.BinaryType(), False, {"comment": "the page's distinct tokens in UTF-8, joined"}),
        T.StructField("token_lengths", T.BinaryType(), False, {"comment": "bytes of each of these, packed"}),
        T.StructField("counts", T.BinaryType(), False, {"comment": "how often each occurs, packed"}),
        T.StructField("seen", T.LongType(), False, {"comment": "documents or sequences read, refused ones included"}),
        T.StructField("rejects", T.ArrayType(_REFUSED, False), False, {"comment": "what was refused"}),
    ]
)
_REJECT = pa.struct([pa.field("origin", pa.string()), pa.field("reason", pa.string()), pa.field("record", pa.string())])
_ARROW = pa.schema(
    [
        pa.field("ids", pa.binary()),
        pa.field("lengths", pa.binary()),
        pa.field("codes", pa.binary()),
        pa.field("tokens", pa.binary()),
        pa.field("token_lengths", pa.binary()),
        pa.field("counts", pa.binary()),
        pa.field("seen", pa.int64()),
        pa.field("rejects", pa.list_(_REJECT)),
    ]
)


class Page(NamedTuple):
    """One row of PAGES."""

    ids: NDArray[np.int64]
    """Ids of the sequences, int64 [n]."""
    lengths: NDArray[np.int32]
    """Tokens in each sequence, int32 [n]."""
    codes: NDArray[np.int32]
    """The tokens of all sequences in order, int32 [sum of lengths], as indices into ``tokens``."""
    tokens: pa.StringArray
    """The distinct tokens of the page."""
    counts: NDArray[np.int64]
    """How often each of ``tokens`` occurs, int64."""
    seen: int
    """Documents or sequences read, refused ones included."""
    rejects: list[Reject]
    """The refused ones."""


def from_documents(documents: DataFrame | TextDocuments, config: TokensConfig) -> DataFrame:
    """Return the token sequences of DOCUMENTS as PAGES; documents without any are in the pages' ``rejects``."""
    return documents.mapInArrow(_pages_of_documents(config), PAGES)


def from_documents_by_origin(documents: DataFrame | TextDocuments, config: TokensConfig) -> DataFrame:
    """Return the token sequences of DOCUMENTS as PAGES with a column ``origin``: each page is of one origin."""
    schema = T.StructType([*PAGES, T.StructField("origin", T.StringType(), True)])
    return documents.mapInArrow(_pages_by_origin(config), schema)


def without(pages: DataFrame, folder: str) -> DataFrame:
    """Return PAGES, with further columns or none, without sequences whose ids are in a folder of Parquet files."""
    return pages.mapInArrow(_dropping(folder), pages.schema)


def from_sequences(sequences: DataFrame) -> DataFrame:
    """Return SEQUENCES as PAGES."""
    return sequences.select("id", "tokens").mapInArrow(_pages_of_sequences, PAGES)


def rejects(pages: DataFrame) -> DataFrame:
    """Return the refused rows as REJECTS."""
    return pages.select(F.inline("rejects"))


def reject_counts(pages: DataFrame) -> tuple[int, int]:
    """Return the number of refused rows and of all rows read.

    Rows without content, such as blank lines between paragraphs, count in neither.
    """
    blank = F.size(F.filter("rejects", lambda reject: reject["reason"].isin(EMPTY, NO_TOKEN)))
    row = pages.agg(F.sum(F.size("rejects") - blank), F.sum(F.col("seen") - blank)).first()
    return (int(row[0] or 0), int(row[1] or 0)) if row else (0, 0)


def read(batch: pa.RecordBatch) -> Iterator[Page]:
    """Yield the pages in a batch of PAGES; columns that the batch lacks are empty. Arrays are writable copies."""
    for index in range(batch.num_rows):
        row = {name: batch.column(name)[index] for name in batch.schema.names}
        refused = row["rejects"].as_py() if "rejects" in row else []
        yield Page(
            ids=np.frombuffer(row["ids"].as_buffer(), np.int64).copy() if "ids" in row else np.empty(0, np.int64),
            lengths=_ints(row.get("lengths")),
            codes=_ints(row.get("codes")),
            tokens=_tokens(row) if "tokens" in row else pa.array([], pa.string()),
            counts=_ints(row.get("counts"), np.int64).astype(np.int64),
            seen=row["seen"].as_py() if "seen" in row else 0,
            rejects=[Reject(**reject) for reject in refused],
        )


def write(page: Page) -> pa.RecordBatch:
    """Return a page as a batch of PAGES with one row."""
    text, offsets = string_buffers(page.tokens)
    lengths, codes, token_lengths, counts = map(pack, (page.lengths, page.codes, np.diff(offsets), page.counts))
    parts = [page.ids.tobytes(), lengths, codes, text.tobytes(), token_lengths, counts]
    values = [
        *[pa.array([part], pa.binary()) for part in parts],
        pa.array([page.seen], pa.int64()),
        pa.array([[reject._asdict() for reject in page.rejects]], pa.list_(_REJECT)),
    ]
    return pa.RecordBatch.from_arrays(values, schema=_ARROW)


def encode(parts: list[Sequences], seen: int = 0, rejects: list[Reject] | None = None) -> Page:
    """Return sequences as a page: distinct tokens in the order of their first occurrence, and codes."""
    counter = TokenCounter(PAGE_TOKENS // 4, PAGE_BYTES // 4)
    codes = _joined([counter.add(part.tokens) for part in parts], np.int32)
    tokens, counts = counter.totals()
    return Page(
        ids=_joined([part.ids for part in parts], np.int64),
        lengths=_joined([np.diff(part.offsets) for part in parts], np.int32),
        codes=codes,
        tokens=tokens,
        counts=counts,
        seen=seen,
        rejects=rejects or [],
    )


def _pages_of_documents(config: TokensConfig) -> Table:
    def pages(batches: Batches) -> Batches:
        return _fill((*tokenize(part, config), part.num_rows) for batch in batches for part in _slices(batch))

    return pages


def _pages_by_origin(config: TokensConfig) -> Table:
    def pages(batches: Batches) -> Batches:
        of_one = (part for batch in batches for part in _runs(batch))
        for origin, parts in groupby(of_one, lambda part: part.column("origin")[0].as_py()):
            for page in _pages_of_documents(config)(parts):
                yield page.append_column("origin", pa.array([origin], pa.string()))

    return pages


def _runs(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield slices of a batch whose rows have one origin each."""
    ends = pc.run_end_encode(batch.column("origin")).run_ends.to_numpy()
    for start, stop in pairwise([0, *ends.tolist()]):
        yield batch.slice(start, stop - start)


def _dropping(folder: str) -> Table:
    def remaining(batches: Batches) -> Batches:
        copy, _ = host_cache.make("deleted", folder, _write_ids)
        ids = host_cache.mapped(copy / "ids", np.int64)
        for batch in batches:
            for row, page in enumerate(read(batch)):
                whole = write(_drop(page, ids))
                for name in batch.schema.names[len(_ARROW) :]:
                    whole = whole.append_column(name, batch.column(name).slice(row, 1))
                yield whole

    return remaining


def _write_ids(filesystem: pafs.FileSystem, parts: list[str], folder: Path) -> None:
    ids = [pq.read_table(part, columns=["id"], filesystem=filesystem)["id"].to_numpy() for part in parts]
    np.unique(np.concatenate(ids)).astype(np.int64).tofile(folder / "ids")


def _drop(page: Page, ids: NDArray[np.int64]) -> Page:
    """Return a page without the sequences of some ids, which are sorted."""
    places = np.minimum(np.searchsorted(ids, page.ids), len(ids) - 1)
    remains = ids[places] != page.ids if len(ids) else np.ones(len(page.ids), bool)
    if remains.all():
        return page
    used, codes = np.unique(page.codes[np.repeat(remains, page.lengths)], return_inverse=True)
    return page._replace(
        ids=page.ids[remains],
        lengths=page.lengths[remains],
        codes=codes.astype(np.int32),
        tokens=page.tokens.take(pa.array(used)),
        counts=np.bincount(codes, minlength=len(used)).astype(np.int64),
        seen=page.seen - int((~remains).sum()),
    )


def _pages_of_sequences(batches: Batches) -> Batches:
    return _fill((_flat(batch), [], batch.num_rows) for batch in batches)


def _fill(slices: Iterable[tuple[Sequences, list[Reject], int]]) -> Batches:
    """Yield pages of consecutive slices of input: sequences, rejects, rows read; holds one page and one slice."""
    parts: list[Sequences] = []
    refused: list[Reject] = []
    seen = tokens = size = 0
    for part, new, rows in slices:
        parts.append(part)
        refused += new
        seen, tokens, size = seen + rows, tokens + len(part.tokens), size + part.tokens.nbytes
        if tokens >= PAGE_TOKENS or size >= PAGE_BYTES or len(refused) >= _MAX_REJECTS:
            yield write(encode(parts, seen, refused))
            parts, refused, seen, tokens, size = [], [], 0, 0, 0
    if seen:
        yield write(encode(parts, seen, refused))


def _slices(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield slices of a batch of documents with about 1 MiB of text each; a larger document has a slice of its own."""
    sizes = pc.fill_null(pc.binary_length(batch.column("text")), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    # A row belongs to the slice that its first byte falls in.
    owners = (np.cumsum(sizes) - sizes) // _SLICE_BYTES
    for start, stop in pairwise(list_offsets.from_runs(owners).tolist()):
        yield batch.slice(start, stop - start)


def _flat(batch: pa.RecordBatch) -> Sequences:
    """Return a batch of SEQUENCES as flat sequences."""
    lists = batch.column("tokens")
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    return Sequences(batch.column("id").to_numpy(), list_offsets.from_lengths(lengths), lists.flatten())


def _tokens(row: dict[str, Any]) -> pa.StringArray:
    lengths = _ints(row["token_lengths"])
    offsets = list_offsets.from_lengths(lengths).astype(np.int32)
    return pa.StringArray.from_buffers(len(lengths), pa.py_buffer(offsets), row["tokens"].as_buffer())


def _joined(arrays: list[NDArray[Any]], dtype: type[np.integer]) -> NDArray[Any]:
    return np.concatenate(arrays).astype(dtype, copy=False) if arrays else np.empty(0, dtype)


def _ints(scalar: pa.BinaryScalar | None, plain: type[np.integer] = np.int32) -> NDArray[Any]:
    return np.empty(0, plain) if scalar is None else unpack(scalar.as_buffer(), plain)
