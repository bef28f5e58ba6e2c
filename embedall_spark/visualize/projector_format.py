"""How TensorBoard's embedding projector wants its files; no Spark."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Key = tuple[str, str]  # kind and id

LONGEST = 300  # letters of a cell
_BLANK = "(blank)"  # the projector skips empty lines
_TITLE = "title"
# What splits lines or columns somewhere, and what JavaScript takes for blank.
_BREAKS = re.compile(r"[\s\x00-\x1f\x7f\x85\u2028\u2029\ufeff]+")


def name(text: str) -> str:
    """Return a tensor's name, which the projector puts into addresses as it is."""
    return re.sub(r"[^\w.-]+", "_", text).strip("_.") or "vectors"


def columns(
    chosen: Sequence[Key], counts: Sequence[int | None], known: Mapping[str, Mapping[str, str]]
) -> dict[str, list[str]]:
    """Return the columns of the metadata, none of them empty: title, id, what is known besides, count and kind.

    Args:
        chosen: kind and id of each row; the kind is left out where all have the same.
        counts: of each row.
        known: by the name of a column, what it says of ids.
    """
    ids = [clean(identity) or _BLANK for _, identity in chosen]
    said = {clean(key): [clean(texts.get(identity, "")) for _, identity in chosen] for key, texts in known.items()}
    said = {key: texts for key, texts in said.items() if key and any(texts)}
    titles = said.pop(_TITLE, None)
    shown = {} if titles is None else {_TITLE: [title or text for title, text in zip(titles, ids, strict=True)]}
    shown |= {"id": ids} | said
    if any(count is not None for count in counts):
        shown.setdefault("count", ["" if count is None else str(count) for count in counts])
    if len({kind for kind, _ in chosen}) > 1:
        shown.setdefault("kind", [clean(kind) for kind, _ in chosen])
    return shown


def table(found: Mapping[str, Sequence[str]]) -> bytes:
    """Return columns as tab-separated text; one column alone has no line of names."""
    lines = ["\t".join(found)] if len(found) > 1 else []
    lines += ["\t".join(row) for row in zip(*found.values(), strict=True)]
    return "".join(f"{line}\n" for line in lines).encode()


def clean(text: str) -> str:
    """Return a text without what would break a line or a column, and at most LONGEST letters of it."""
    # An unpaired surrogate cannot be written.
    text = _BREAKS.sub(" ", text.encode(errors="replace").decode()).strip()
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def numbers(matrix: NDArray[np.float32]) -> tuple[str, bytes]:
    """Return the ending and the content of the file of a matrix, float32 [n, d]: bytes, or text where need be."""
    content = matrix.astype("<f4").tobytes()
    try:
        content.split(b"\n", 1)[0].decode()
    except UnicodeDecodeError:
        return "bytes", content
    # TensorBoard takes for text what can be read as text, which the bytes of few and round numbers can.
    rows = ("\t".join(map(str, row)) for row in matrix.astype(np.float32))
    return "tsv", "".join(f"{row}\n" for row in rows).encode()


def entry(name: str, shape: Sequence[int], paths: Sequence[str], tile: int) -> str:
    """Return a tensor's part of the configuration, an EmbeddingInfo as text.

    Args:
        name: of the tensor.
        shape: its rows and numbers in a row.
        paths: of vectors, metadata and, where there is one, the sheet of pictures, relative to the configuration.
        tile: edge of a picture in the sheet, in pixels.
    """
    lines = [f'tensor_name: "{name}"', f'tensor_path: "{paths[0]}"', f'metadata_path: "{paths[1]}"']
    lines += [f"tensor_shape: {number}" for number in shape]
    if len(paths) > 2:
        lines.append(f'sprite {{ image_path: "{paths[2]}" single_image_dim: {tile} single_image_dim: {tile} }}')
    return "embeddings {\n" + "".join(f"  {line}\n" for line in lines) + "}\n"
