from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from matplotlib.image import imread
from PIL import Image
from vector_tables import table

from embedall_spark.errors import BadData, ConfigError
from embedall_spark.vectors import unit
from embedall_spark.visualize import label_layout, scatter_map


@pytest.fixture(scope="module")
def vectors(spark):
    rng = np.random.default_rng(9)
    centers = rng.normal(size=(4, 16)) * 4
    ids = [f"слово{i}" for i in range(70)] + [
        "단어",
        "a$b$c_",
        "\n",
        "x" * 90,
        "ظ",
        "\U0001d4b3",
        "\x01",
        "e\u0301",
        "_",
        "^{",
    ]
    matrix = centers[np.arange(80) % 4] + rng.normal(size=(80, 16))
    return table(spark, ids, matrix, range(80, 0, -1)).cache()


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_the_same_picture_each_time_of_any_letters(vectors, method):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        first, again = (scatter_map.draw(vectors, 80, method=method, seed=3) for _ in range(2))
    assert first == again
    pixels = imread(io.BytesIO(first))
    assert pixels.shape[:2] == (1400, 1820)
    assert 0.002 < (pixels[..., :3].min(axis=2) < 0.7).mean() < 0.5


def test_neighbors_stay_neighbors():
    rng = np.random.default_rng(10)
    kind = np.arange(120) % 3
    units = unit((rng.normal(size=(3, 20))[kind] * 5 + rng.normal(size=(120, 20))).astype(np.float32))
    for method in ("tsne", "pca"):
        flat = scatter_map.project(units, method, 1)
        distance = np.linalg.norm(flat[:, None] - flat[None], axis=2) + np.diag([np.inf] * 120)
        assert (kind[distance.argmin(axis=1)] == kind).mean() > 0.98


def test_labels_never_cover_each_other():
    rng = np.random.default_rng(11)
    dots = rng.uniform(0, 300, size=(200, 2))
    corner = dots[:, None] + np.array([[2, 2], [-42, 2], [2, -12]])
    boxes = np.concatenate([corner, corner + np.array([40, 10])], axis=2)
    chosen = label_layout.place(boxes, dots, (300, 300))
    placed = boxes[np.arange(200), chosen][chosen >= 0]
    assert 20 < len(placed) < 200
    assert placed.min() >= 0
    assert placed.max() <= 300
    for i, one in enumerate(placed):
        for other in placed[:i]:
            assert one[2] <= other[0] or one[0] >= other[2] or one[3] <= other[1] or one[1] >= other[3]


def test_the_first_label_takes_the_side_without_dots():
    boxes = np.array([[[0, 0, 10, 10], [20, 0, 30, 10]], [[0, 0, 10, 10], [20, 0, 30, 10]]], dtype=float)
    assert label_layout.place(boxes, np.array([[5.0, 5.0], [40, 40]]), (50, 50)).tolist() == [1, 0]


@pytest.mark.parametrize("ids", [2, 3, 5])
def test_tiny_tables_have_a_map(spark, ids):
    small = table(spark, [f"w{i}" for i in range(ids)], np.ones((ids, 1)))
    assert scatter_map.draw(small).startswith(b"\x89PNG")
    small = table(spark, [f"w{i}" for i in range(ids)], np.eye(ids))
    assert scatter_map.draw(small).startswith(b"\x89PNG")


def test_limits(spark, vectors):
    with pytest.raises(ConfigError, match="need 2 to 5,000"):
        scatter_map.draw(vectors, 5001)
    with pytest.raises(BadData, match="the table has 1"):
        scatter_map.draw(table(spark, ["one"], [[1.0]]))


def test_colors_of_labels_and_titles_in_place_of_ids(spark, monkeypatch):
    ids = [f"w{i}" for i in range(40)]
    vectors = table(spark, ids, np.random.default_rng(12).normal(size=(40, 4)), range(40, 0, -1))
    rows = [(name, f"g{i % 12:02}" if i % 5 else None, f"$title {i}_") for i, name in enumerate(ids[:-1])]
    rows += [
        ("w1", "g02", "$title 1_"),
        ("w1", "g02", "later"),
        ("elsewhere", "far", "away"),
        *[("w26", "g02", None)] * 2,
    ]
    metadata = spark.createDataFrame(rows, "id string, label string, title string")
    seen = {}

    def look(names, places, colors, title, legend):
        seen.update(names=names, colors=colors, legend=legend)
        return picture(names, places, colors, title, legend)

    picture = scatter_map._draw
    monkeypatch.setattr(scatter_map, "_draw", look)
    assert scatter_map.draw(vectors, 40, metadata=metadata) == scatter_map.draw(
        vectors.repartition(5), 40, metadata=metadata.repartition(3)
    )
    counts = {f"g{g:02}": sum(row[1] == f"g{g:02}" for row in {*rows}) for g in range(12)}
    ranked = sorted(counts, key=lambda label: (-counts[label], label))
    # Ten labels have colors; gray is explained too.
    assert list(seen["legend"]) == [*ranked[:10], scatter_map._OTHER_LABEL]
    assert len({*seen["legend"].values()}) == 11
    assert seen["names"] == [f"$title {i}_" for i in range(39)] + ["w39"]
    # w0 has no label, w1 has two, w39 is not known.
    assert [seen["colors"][i] for i in (0, 1, 2, 39)] == [
        scatter_map.OTHER,
        seen["legend"]["g02"],
        seen["legend"]["g02"],
        scatter_map.OTHER,
    ]
    assert {color for color in seen["colors"]} == {*seen["legend"].values(), scatter_map.OTHER}
    assert scatter_map.draw(vectors, 40) == scatter_map.draw(vectors, 40, metadata=metadata.where("id = 'elsewhere'"))
    assert seen["legend"] == {}


def test_a_map_of_pictures_asks_for_the_ids_that_it_shows(spark, vectors):
    calls = []

    def find(ids):
        calls.extend(ids)
        return {name: Image.new("RGB", (20, 20), "#00ff00") for name in ids[:3]}

    rows = [(f"слово{i}", "зелёный", None) for i in range(5)]
    metadata = spark.createDataFrame(rows, "id string, label string, title string")
    content = scatter_map.draw_pictures(vectors, 6, find, seed=3, metadata=metadata)
    assert calls == [f"слово{i}" for i in range(6)]
    pixels = np.round(imread(io.BytesIO(content))[..., :3] * 255)
    assert (pixels == (0, 255, 0)).all(axis=2).sum() > 300 and pixels.shape[1] > 1820
    assert scatter_map.draw_pictures(vectors, 6, find, seed=3, metadata=metadata) == content
    with pytest.raises(ConfigError, match="5,000"):
        scatter_map.draw_pictures(vectors, scatter_map.MAX_IDS + 1, find)
