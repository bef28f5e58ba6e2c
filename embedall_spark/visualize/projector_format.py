"""The file formats of TensorBoard's embedding projector; no Spark."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Key = tuple[str, str]  # kind and id

MAX_LETTERS = 300  # of a cell
_BLANK = "(blank)"  # the projector skips empty lines
_TITLE = "title"
# Everything that ends a line or a column somewhere, and that JavaScript counts as blank.
_BREAKS = re.compile(r"[\s\x00-\x1f\x7f\x85\u2028\u2029\ufeff]+")


def name(text: str) -> str:
    """Return a text as the name of a tensor, which the projector puts into URLs unescaped."""
    return re.sub(r"[^\w.-]+", "_", text).strip("_.") or "vectors"


def columns(
    keys: Sequence[Key], counts: Sequence[int | None], metadata: Mapping[str, Mapping[str, str]]
) -> dict[str, list[str]]:
    """Return the columns that are shown, none of them empty: title, id, other metadata, count and kind.

    Args:
        keys: kind and id of each row; the kind is left out if all rows have the same.
        counts: of each row.
        metadata: the values by id, by the name of their column.
    """
    ids = [clean(identity) or _BLANK for _, identity in keys]
    cells = {
        clean(name): [clean(values.get(identity, "")) for _, identity in keys] for name, values in metadata.items()
    }
    cells = {name: values for name, values in cells.items() if name and any(values)}
    titles = cells.pop(_TITLE, None)
    shown = {} if titles is None else {_TITLE: [title or text for title, text in zip(titles, ids, strict=True)]}
    shown |= {"id": ids} | cells
    if any(count is not None for count in counts):
        shown.setdefault("count", ["" if count is None else str(count) for count in counts])
    if len({kind for kind, _ in keys}) > 1:
        shown.setdefault("kind", [clean(kind) for kind, _ in keys])
    return shown


def table(cells: Mapping[str, Sequence[str]]) -> bytes:
    """Return columns as tab-separated text; a single column has no header line."""
    lines = ["\t".join(cells)] if len(cells) > 1 else []
    lines += ["\t".join(row) for row in zip(*cells.values(), strict=True)]
    return "".join(f"{line}\n" for line in lines).encode()


def clean(text: str) -> str:
    """Return a text without characters that end a line or a column, and at most MAX_LETTERS letters of it."""
    # An unpaired surrogate cannot be written.
    text = _BREAKS.sub(" ", text.encode(errors="replace").decode()).strip()
    return text if len(text) <= MAX_LETTERS else f"{text[: MAX_LETTERS - 1]}…"


def vector_file(matrix: NDArray[np.float32]) -> tuple[str, bytes]:
    """Return the suffix and the content of the file of a matrix, float32 [n, d]: bytes, or text if these are text."""
    content = matrix.astype("<f4").tobytes()
    try:
        content.split(b"\n", 1)[0].decode()
    except UnicodeDecodeError:
        return "bytes", content
    # TensorBoard reads a file as text if it can be decoded, as can the bytes of few and round values.
    rows = ("\t".join(map(str, row)) for row in matrix.astype(np.float32))
    return "tsv", "".join(f"{row}\n" for row in rows).encode()


def entry(name: str, shape: Sequence[int], paths: Sequence[str], tile: int) -> str:
    """Return a tensor's part of the configuration, an EmbeddingInfo in the text format of protocol buffers.

    Args:
        name: of the tensor.
        shape: its rows and their dimension.
        paths: of vectors, metadata and the sheet of pictures, if there is one, relative to the configuration.
        tile: edge of a picture in the sheet, in pixels.
    """
    lines = [f'tensor_name: "{name}"', f'tensor_path: "{paths[0]}"', f'metadata_path: "{paths[1]}"']
    lines += [f"tensor_shape: {number}" for number in shape]
    if len(paths) > 2:
        lines.append(f'sprite {{ image_path: "{paths[2]}" single_image_dim: {tile} single_image_dim: {tile} }}')
    return "embeddings {\n" + "".join(f"  {line}\n" for line in lines) + "}\n"
