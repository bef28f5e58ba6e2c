"""A map of the most frequent ids in two dimensions, with readable labels."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F
from threadpoolctl import threadpool_limits

from embedall_spark.errors import ConfigError, TooFewIds
from embedall_spark.schemas import from_arrow
from embedall_spark.vectors import to_matrix, unit
from embedall_spark.visualize import image_map, label_layout
from embedall_spark.visualize.drawing import INK, figure_png, ignore_missing_glyphs, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from PIL import Image
    from pyspark.sql import DataFrame

MAX_IDS = 5_000
COLORS = ["#4269d0", "#c9851b", "#d6403a", "#2a8f96", "#3c8f5c", "#c2549d", "#7a4fc4", "#8c6139", "#5d7f2b", "#64748b"]
OTHER = "#8e8e98"  # no label, or none of the ten most frequent ones
_OTHER_LABEL = "another label, or none"
_MAX_LETTERS = 24  # of a name
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
    metadata: DataFrame | None = None,
) -> bytes:
    """Return a PNG of the most frequent ids, close to each other where their vectors point the same way.

    Every id is a dot; its name is written only where it covers no other name, frequent ids first. The same vectors
    and seed give the same picture.

    Args:
        vectors: VECTORS; ids without a count come last, in an order given by a hash.
        count: how many ids.
        method: ``tsne`` (van der Maaten and Hinton 2008) keeps neighbors together, ``pca`` keeps large distances.
        clusters: colors by k-means over the unit vectors, at most 10; 0 or 1: one color.
        seed: of the projection and the clusters.
        title: above the map.
        metadata: id, label and title, as sources.metadata.read() returns them. A title replaces its id. If ids
            have labels, colors show the ten most frequent labels, with a legend, instead of clusters; of several labels
            of an id the most frequent one counts.

    Raises:
        TooFewIds: the table has fewer than two ids.
        ConfigError: ``count`` is over MAX_IDS.
    """
    with ThreadPoolExecutor(1) as executor:
        imported = executor.submit(_import_libraries)  # as long as Spark takes to find the ids
        ids, units = most_frequent(vectors, count)
        imported.result()
    places = project(units, method, seed)
    labels, titles = _labels_and_titles(metadata, ids)
    palette = _palette(labels)
    colors = _colors(ids, labels, palette) if palette else [COLORS[group] for group in _groups(units, clusters, seed)]
    heading = title or f"{len(ids):,} most frequent ids, {'t-SNE' if method == 'tsne' else 'PCA'}"
    return _draw([titles.get(name, name) for name in ids], places, colors, heading, _legend(palette, colors))


def _import_libraries() -> None:
    """Import what a map is computed and drawn with."""
    from matplotlib.backends import backend_agg  # noqa: F401
    from sklearn import cluster, decomposition, manifold  # noqa: F401


def draw_pictures(
    vectors: DataFrame,
    count: int,
    find: Callable[[list[str]], Mapping[str, Image.Image]],
    *,
    method: Literal["tsne", "pca"] = "tsne",
    seed: int = 1,
    title: str | None = None,
    metadata: DataFrame | None = None,
) -> bytes:
    """Return a PNG of pictures, close to each other where their vectors point the same way; see image_map.draw().

    Args:
        vectors: VECTORS; where ids have no count, a hash chooses among them.
        count: how many ids.
        find: returns small pictures by id; ids without one are dots.
        method: as for draw().
        seed: of the projection.
        title: above the map.
        metadata: id, label and title; the ten most frequent labels have colors, which a legend explains.

    Raises:
        TooFewIds: the table has fewer than two ids.
        ConfigError: ``count`` is over MAX_IDS.
    """
    ids, units = most_frequent(vectors, count)
    labels, _ = _labels_and_titles(metadata, ids)
    palette = _palette(labels)
    colors = _colors(ids, labels, palette)
    pictures = find(ids)
    heading = title or f"{len(ids):,} pictures, {'t-SNE' if method == 'tsne' else 'PCA'}"
    legend = {_short(label): color for label, color in _legend(palette, colors).items()}
    return image_map.draw(project(units, method, seed), [pictures.get(name) for name in ids], colors, heading, legend)


def project(units: NDArray[np.float32], method: str, seed: int) -> NDArray[np.float32]:
    """Return two coordinates for each unit vector, float32 [n, 2]."""
    # Imported in functions, as matplotlib is: that takes seconds, and few commands draw a map.
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if not np.ptp(units, axis=0).any():
        return np.zeros((len(units), 2), dtype=np.float32)
    components = min(2, *units.shape)
    # Several threads would sum in another order each time.
    with threadpool_limits(1):
        flat = PCA(components, svd_solver="full", random_state=seed).fit_transform(units)
        if method == "tsne" and len(units) > 3:
            initial = np.pad(flat, ((0, 0), (0, 2 - components))) / max(float(np.std(flat[:, 0])), 1e-12) * 1e-4
            options = {"perplexity": min(30.0, (len(units) - 1) / 3), "metric": "cosine", "random_state": seed}
            flat = TSNE(2, init=initial.astype(np.float32), n_jobs=1, **options).fit_transform(units)
    return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1]))).astype(np.float32)


def most_frequent(vectors: DataFrame, count: int) -> tuple[list[str], NDArray[np.float32]]:
    """Return the most frequent ids and their vectors at length 1, float32 [n, d]."""
    if not 2 <= count <= MAX_IDS:
        raise ConfigError(f"a map of {count:,} ids: need 2 to {MAX_IDS:,}; a map has room for some hundred labels")
    order = [F.desc_nulls_last("count"), F.xxhash64("id"), F.col("id")]
    table = vectors.orderBy(*order).limit(count).select("id", "vector").toArrow()
    if len(table) < 2:
        raise TooFewIds(f"a map needs two ids or more, the table has {len(table)}")
    return table["id"].to_pylist(), unit(to_matrix(table["vector"]))


def _labels_and_titles(metadata: DataFrame | None, ids: list[str]) -> tuple[dict[str, set[str]], dict[str, str]]:
    """Return the labels of ids, and their titles."""
    if metadata is None:
        return {}, {}
    names = from_arrow(metadata.sparkSession, pa.table({"id": pa.array(ids, pa.string())}))
    table = metadata.join(names, "id", "left_semi").select("id", "label", "title").distinct().toArrow()
    labels: dict[str, set[str]] = {}
    titles: dict[str, str] = {}
    for name, label, title in zip(*(column.to_pylist() for column in table.columns), strict=True):
        if label is not None:
            labels.setdefault(name, set()).add(label)
        if title is not None:
            titles[name] = min(title, titles.get(name, title))
    return labels, titles


def _palette(labels: Mapping[str, set[str]]) -> dict[str, str]:
    """Return the color of each of the most frequent labels, the most frequent first."""
    counts = Counter(label for id_labels in labels.values() for label in id_labels)
    ranked = sorted(counts, key=lambda label: (-counts[label], label))
    return dict(zip(ranked, COLORS, strict=False))


def _colors(ids: Sequence[str], labels: Mapping[str, set[str]], palette: Mapping[str, str]) -> list[str]:
    """Return the color of each id's most frequent label."""
    return [next((color for label, color in palette.items() if label in labels.get(name, ())), OTHER) for name in ids]


def _legend(palette: Mapping[str, str], colors: Sequence[str]) -> dict[str, str]:
    """Return the colors by what they mean, gray included where it is used."""
    gray = {_OTHER_LABEL: OTHER} if palette and OTHER in colors else {}
    return {**palette, **gray}


def _groups(units: NDArray[np.float32], clusters: int, seed: int) -> NDArray[np.int64]:
    """Return the index of a color for each row, by clusters."""
    clusters = min(clusters, len(COLORS), len(np.unique(units, axis=0)))
    if clusters < 2:
        return np.zeros(len(units), dtype=np.int64)
    from sklearn.cluster import KMeans

    with threadpool_limits(1):
        labels: NDArray[np.int64] = KMeans(clusters, n_init=4, random_state=seed).fit_predict(units).astype(np.int64)
    return labels


def _draw(
    names: list[str], places: NDArray[np.float32], colors: list[str], title: str, legend: Mapping[str, str]
) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, dpi=_DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.015, 0.015, 0.83 if legend else 0.97, 0.935))
    axes.set(xticks=[], yticks=[])
    axes.margins(0.03)
    for spine in axes.spines.values():
        spine.set_color("#d4d4d8")
    axes.set_title(title, fontsize=13, loc="left", color=INK, parse_math=False)
    axes.scatter(places[:, 0], places[:, 1], s=9, c=colors, alpha=0.55, linewidths=0)
    with ignore_missing_glyphs():
        if legend:
            _draw_legend(axes, legend)
        _write_names(axes, canvas, names, places, colors)
    return figure_png(figure)


def _draw_legend(axes: Any, legend: Mapping[str, str]) -> None:
    """Draw the meaning of the colors at the right of the map."""
    from matplotlib.lines import Line2D

    dots = [Line2D([], [], marker="o", linestyle="", markersize=6, color=color) for color in legend.values()]
    place = {"loc": "upper left", "bbox_to_anchor": (1, 1), "frameon": False, "fontsize": 9}
    for text in axes.legend(dots, [_short(label) for label in legend], **place).get_texts():
        text.set_parse_math(False)


def _write_names(axes: Any, canvas: Any, names: Sequence[str], places: NDArray[np.float32], colors: list[str]) -> None:
    """Write the names for which there is room beside their dots."""
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
    name = one_line(name) or "·"
    return name if len(name) <= _MAX_LETTERS else f"{name[: _MAX_LETTERS - 1]}…"
