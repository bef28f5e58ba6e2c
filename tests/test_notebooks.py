"""The notebooks run from top to bottom, over a table with counts and over one with titles and none."""

import runpy
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from vector_tables import table

from embedall_spark import files, tables
from embedall_spark.schemas import ITEMS, VECTORS, conform

EXPLORE = Path(__file__).parents[1] / "notebooks" / "explore.py"


@pytest.fixture
def plots():
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.close("all")
    yield plt
    plt.close("all")


def explore(monkeypatch, vectors, size, name):
    """Run the notebook over a table."""
    tables.write(vectors.sparkSession, vectors, name, VECTORS, mode="error", run_id="night", vector_size=size)
    monkeypatch.setenv("EMBEDALL_TABLE", name)
    return runpy.run_path(str(EXPLORE))


def test_words(spark, tmp_path, monkeypatch, plots, capfd):
    vectors = np.random.default_rng(0).normal(size=(40, 5))
    vectors[1] = vectors[0] + 0.01
    words = table(spark, [f"word{at:02}" for at in range(40)], vectors, counts=range(100, 60, -1))
    found = explore(monkeypatch, words, 5, str(tmp_path / "words"))
    said = capfd.readouterr().out
    assert "word00  word01, " in said and "night" in said
    assert len(found["some"]) == 40 and len(plots.get_fignums()) == 2


def test_titles_stand_beside_a_table_without_counts(spark, tmp_path, monkeypatch, plots):
    ids, name = ["a", "b", "c", "d"], str(tmp_path / "pictures")
    titles = spark.createDataFrame([(one, one.upper(), one) for one in ids], "id string, title string, label string")
    tables.write(spark, conform(titles, ITEMS), files.metadata_of(name), ITEMS, mode="error", run_id="night")
    found = explore(monkeypatch, table(spark, ids, np.eye(4)), 4, name)
    assert found["known"].count() == 4 and len(found["some"]) == 0
    assert found["picture"].ndim == 3
