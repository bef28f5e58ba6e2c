"""A map: the most frequent ids in two dimensions, as a picture with readable labels."""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pyspark.sql import functions as F
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from embedall_spark.errors import BadData, ConfigError
from embedall_spark.search import exact
from embedall_spark.search.exact_kernel import unit
from embedall_spark.visualize import image_map, label_layout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from PIL import Image
    from pyspark.sql import DataFrame

MAX_IDS = 5_000
COLORS = ["#4269d0", "#c9851b", "#d6403a", "#2a8f96", "#3c8f5c", "#c2549d", "#7a4fc4", "#8c6139", "#5d7f2b", "#64748b"]
OTHER = "#8e8e98"  # no label, or none of those in the legend
_LONGEST = 24  # letters of a name
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
_INCHES, _DPI = (13.0, 10.0), 140


def draw(
    vectors: DataFrame,
    count: int = 400,
    *,
    method: Literal["tsne", "pca"] = "tsne",
    clusters: int = 10,
    seed: int = 1,
    title: str | None = None,
    known: DataFrame | None = None,
) -> bytes:
    """Return a PNG of the most frequent ids, near each other where their vectors point the same way.

    Every id is a dot; its name is written only where it covers no other name, frequent ids first. The same vectors
    and seed give the same picture.

    Args:
        vectors: VECTORS; ids without a count come last, in an order that a hash gives.
        count: how many ids.
        method: ``tsne`` (van der Maaten and Hinton 2008) keeps neighbours together, ``pca`` keeps large distances.
        clusters: colours by k-means over the unit vectors, at most 10; 0 or 1: one colour.
        seed: of the projection and the clusters.
        title: above the picture.
        known: id, label and title of ids, as evaluate.labels.read() returns them. A title is written in place of its
            id. Where ids have labels, colours tell these in place of clusters: the ten most frequent ones, by a
            legend; of several labels of an id the most frequent one counts.

    Raises:
        BadData: the table has fewer than two ids.
        ConfigError: ``count`` is over MAX_IDS.
    """
    ids, units = most_frequent(vectors, count)
    places = project(units, method, seed)
    labels, titles = _about(known, ids)
    named = _most_frequent(labels)
    colors = _colors(ids, labels, named) if named else [COLORS[group] for group in _groups(units, clusters, seed)]
    heading = title or f"{len(ids):,} most frequent ids, {'t-SNE' if method == 'tsne' else 'PCA'}"
    return _picture([titles.get(name, name) for name in ids], places, colors, heading, named)


def draw_pictures(
    vectors: DataFrame,
    count: int,
    find: Callable[[list[str]], Mapping[str, Image.Image]],
    *,
    method: Literal["tsne", "pca"] = "tsne",
    seed: int = 1,
    title: str | None = None,
    known: DataFrame | None = None,
) -> bytes:
    """Return a PNG of pictures, near each other where their vectors point the same way; see picture_map.draw().

    Args:
        vectors: VECTORS; where ids have no count, a hash chooses among them.
        count: how many ids.
        find: gives small pictures of ids; those that it lacks are dots.
        method: as for draw().
        seed: of the projection.
        title: above the map.
        known: id and label of ids; the ten most frequent labels have colours, which a legend tells.

    Raises:
        BadData: the table has fewer than two ids.
        ConfigError: ``count`` is over MAX_IDS.
    """
    ids, units = most_frequent(vectors, count)
    labels, _ = _about(known, ids)
    named = _most_frequent(labels)
    colors = _colors(ids, labels, named) if named else [OTHER] * len(ids)
    pictures = find(ids)
    heading = title or f"{len(ids):,} pictures, {'t-SNE' if method == 'tsne' else 'PCA'}"
    legend = {_short(label): color for label, color in sorted(named.items())}
    return image_map.draw(project(units, method, seed), [pictures.get(name) for name in ids], colors, heading, legend)


def project(units: NDArray[np.float32], method: str, seed: int) -> NDArray[np.float32]:
    """Return two coordinates for each unit vector, float32 [n, 2]."""
    if not np.ptp(units, axis=0).any():
        return np.zeros((len(units), 2), dtype=np.float32)
    components = min(2, *units.shape)
    # Threads would add in another order each time.
    with threadpool_limits(1):
        flat = PCA(components, svd_solver="full", random_state=seed).fit_transform(units)
        if method == "tsne" and len(units) > 3:
            start = np.pad(flat, ((0, 0), (0, 2 - components))) / max(float(np.std(flat[:, 0])), 1e-12) * 1e-4
            options = {"perplexity": min(30.0, (len(units) - 1) / 3), "metric": "cosine", "random_state": seed}
            flat = TSNE(2, init=start.astype(np.float32), n_jobs=1, **options).fit_transform(units)
    return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1]))).astype(np.float32)


def most_frequent(vectors: DataFrame, count: int) -> tuple[list[str], NDArray[np.float32]]:
    """Return the most frequent ids and their vectors at length 1, float32 [n, d]."""
    if not 2 <= count <= MAX_IDS:
        raise ConfigError(f"a map of {count:,} ids: need 2 to {MAX_IDS:,}; a picture has room for some hundred labels")
    order = [F.desc_nulls_last("count"), F.xxhash64("id"), F.col("id")]
    table = vectors.orderBy(*order).limit(count).select("id", "vector").toArrow()
    if len(table) < 2:
        raise BadData(f"a map needs two ids or more, the table has {len(table)}")
    return table["id"].to_pylist(), unit(exact.to_matrix(table["vector"].combine_chunks()))


def _about(known: DataFrame | None, ids: list[str]) -> tuple[dict[str, set[str]], dict[str, str]]:
    """Return the labels of ids, and their titles."""
    if known is None:
        return {}, {}
    names = known.sparkSession.createDataFrame(pa.table({"id": pa.array(ids, pa.string())}))
    table = known.join(names, "id", "left_semi").select("id", "label", "title").distinct().toArrow()
    labels: dict[str, set[str]] = {}
    titles: dict[str, str] = {}
    for name, label, title in zip(*(column.to_pylist() for column in table.columns), strict=True):
        if label is not None:
            labels.setdefault(name, set()).add(label)
        if title is not None:
            titles[name] = min(title, titles.get(name, title))
    return labels, titles


def _most_frequent(labels: Mapping[str, set[str]]) -> dict[str, str]:
    """Return the labels that have a colour, most frequent first."""
    counts = Counter(label for some in labels.values() for label in some)
    ranked = sorted(counts, key=lambda label: (-counts[label], label))
    return dict(zip(ranked, COLORS, strict=False))


def _colors(ids: Sequence[str], labels: Mapping[str, set[str]], named: Mapping[str, str]) -> list[str]:
    """Return the colour of each id's most frequent label."""
    return [next((color for label, color in named.items() if label in labels.get(name, ())), OTHER) for name in ids]


def _groups(units: NDArray[np.float32], clusters: int, seed: int) -> NDArray[np.int64]:
    """Return a colour number for each row, the same number for the same kind of words."""
    clusters = min(clusters, len(COLORS), len(np.unique(units, axis=0)))
    if clusters < 2:
        return np.zeros(len(units), dtype=np.int64)
    with threadpool_limits(1):
        labels: NDArray[np.int64] = KMeans(clusters, n_init=4, random_state=seed).fit_predict(units).astype(np.int64)
    return labels


def _picture(
    names: list[str], places: NDArray[np.float32], colors: list[str], title: str, legend: Mapping[str, str]
) -> bytes:
    figure = Figure(figsize=_INCHES, dpi=_DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.015, 0.015, 0.83 if legend else 0.97, 0.935))
    axes.set(xticks=[], yticks=[])
    axes.margins(0.03)
    for spine in axes.spines.values():
        spine.set_color("#d4d4d8")
    axes.set_title(title, fontsize=13, loc="left", color="#18181b", parse_math=False)
    axes.scatter(places[:, 0], places[:, 1], s=9, c=colors, alpha=0.55, linewidths=0)
    content = io.BytesIO()
    with warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        if legend:
            _legend(axes, legend)
        _write(axes, canvas, names, places, colors)
        figure.savefig(content, format="png", dpi=_DPI)
    return content.getvalue()


def _legend(axes: Any, legend: Mapping[str, str]) -> None:
    """Say right of the picture which label has which colour."""
    dots = [Line2D([], [], marker="o", linestyle="", markersize=6, color=color) for color in legend.values()]
    place = {"loc": "upper left", "bbox_to_anchor": (1, 1), "frameon": False, "fontsize": 9}
    for text in axes.legend(dots, [_short(label) for label in legend], **place).get_texts():
        text.set_parse_math(False)


def _write(axes: Any, canvas: Any, names: Sequence[str], places: NDArray[np.float32], colors: list[str]) -> None:
    """Write the names that have room beside their dots."""
    canvas.draw()
    size = 8.5 if len(names) <= 1000 else 7.0
    frame = axes.get_window_extent()
    dots = axes.transData.transform(places) - (frame.x0, frame.y0)
    texts = [
        axes.text(0, 0, _short(name), fontsize=size, color=color, va="bottom", transform=None, parse_math=False)
        for name, color in zip(names, colors, strict=True)
    ]
    extents = np.array([text.get_window_extent(canvas.get_renderer()).size for text in texts])
    gap = 0.35 * size * _DPI / 72
    boxes = np.stack([_candidates(dots, extents, gap, side) for side in _SIDES], axis=1)
    for text, candidates, choice in zip(
        texts, boxes, label_layout.place(boxes, dots, (frame.width, frame.height)), strict=True
    ):
        if choice < 0:
            text.remove()
        else:
            text.set_position((candidates[choice, 0] + frame.x0, candidates[choice, 1] + frame.y0))


def _candidates(
    dots: NDArray[np.float64], extents: NDArray[np.float64], gap: float, side: tuple[int, int]
) -> NDArray[np.float64]:
    """Return the boxes of the labels on one side of their dots, float64 [n, 4]."""
    corner = dots + np.array(side) * gap + (np.array(side) - 1) / 2 * extents
    return np.hstack([corner, corner + extents])


def _short(name: str) -> str:
    name = re.sub(r"\s+|[\x00-\x1f]", " ", name).strip() or "·"
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
