"""A table whose ids are numbers, asked by titles and measured by labels, as a user does it."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from cli_runner import answered_alike, embedall
from vector_tables import table

from embedall_spark import session, tables
from embedall_spark.schemas import VECTORS


@pytest.fixture(scope="module")
def films(spark, tmp_path_factory):
    """Return the folder of a table of 60 films in three genres, and of what is known about them."""
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(8)
    genre = np.arange(60) % 3
    vectors = table(
        spark, list(map(str, range(60))), np.eye(3)[genre] + rng.normal(size=(60, 3)) * 0.2, range(60, 0, -1)
    )
    tables.write(
        spark, vectors, f"{folder}/films", VECTORS, mode="error", run_id="r", vector_size=3, comment="", metadata={}
    )
    names = ["Noir", "Comedy|Short", "Western"]
    lines = [f'{i},"Film, {i}",{names[genre[i]]}' for i in range(58)]
    lines += ["58,Remake,Comedy", "59,Remake,Noir", "99,Absent,Noir"]
    (folder / "films.csv").write_text("film,title,genres\n" + "\n".join(lines) + "\n")
    (folder / "names.tsv").write_text("0\tzero\n3\tthree\n")
    (folder / "pairs.txt").write_text("3\t6\t7\n0\t3\t7\n")
    (folder / "unknown.txt").write_text("a\tb\t1\nc\td\t2\n")
    return folder


def test_titles_are_shown_and_understood(films):
    options = ["--names", f"{films}/films.csv", "--id-column", "film"]
    result = embedall("similar", f"{films}/films", "Film, 7", "0.0", "7", "-n", 3, *options)
    assert result.code == 0
    first, second = result.output.split("\n\n")
    assert first.splitlines()[0] == "Film, 7 [7]"
    assert second.splitlines()[0] == "Film, 0 [0]"
    assert first.count("Film, ") == 4
    assert all(int(line.split("[")[1].split("]")[0]) % 3 == 1 for line in first.splitlines())
    bare = embedall("similar", f"{films}/films", "three", "-n", 59, "--names", f"{films}/names.tsv")
    assert bare.output.splitlines()[0] == "three [3]"
    assert "zero [0]" in bare.output
    assert " 4 " in bare.output
    answered_alike("export", f"{films}/films", f"{films}/films.parquet", "--format", "parquet", *options)
    rows = pq.read_table(f"{films}/films.parquet").to_pylist()
    assert (rows[7]["id"], rows[7]["title"], len(rows[7]["vector"])) == ("7", "Film, 7", 3)


def test_texts_that_mean_no_one_id(films):
    options = ["--names", f"{films}/films.csv", "--id-column", "film", "-n", 2]
    result = embedall("similar", f"{films}/films", "Film, 7", "Remake", "Filn, 8", "Absent", *options)
    assert result.code == 1
    assert result.output.startswith("Film, 7 [7]\n")
    assert "'Remake' is the title of several ids: 58, 59; give one of them" in result.log
    assert "'Filn, 8' is neither an id nor a title in the table; nearest titles: Film, 8" in result.log
    assert "'Absent' is neither" in result.log
    assert "'Filn' is not in the table (60 ids)" in embedall("similar", f"{films}/films", "Filn").log
    wrong = embedall("similar", f"{films}/films", "0", "--names", f"{films}/films.csv")
    assert wrong.code == 3
    assert "no column 'id'" in wrong.log


def test_labels_measured_beside_baselines(films):
    options = [
        "--labels",
        f"{films}/films.csv",
        "--id-column",
        "film",
        "--label-column",
        "genres",
        "--label-split",
        "|",
    ]
    result = answered_alike("evaluate", f"{films}/films", *options)
    assert result.code == 0
    heading, *lines = result.output.splitlines()
    assert heading.split() == ["figure", "vectors", "baseline"]
    assert [line.split("  ")[0] for line in lines] == [
        "nearest 10 that share a label",
        *(f"{kind} F1, trained on {percent}% of ids" for percent in (10, 50, 90) for kind in ("micro", "macro")),
    ]
    for line in lines:
        vectors, baseline = map(float, line.split()[-2:])
        assert vectors > baseline + 0.15, line
    none = answered_alike(
        "evaluate", f"{films}/films", "--labels", f"{films}/films.csv", "--id-column", "title", *options[4:]
    )
    assert none.code == 3
    assert "fewer than two ids of the table have a label" in none.log
    parts = answered_alike("evaluate", f"{films}/films", "--label-prefix", "0")
    assert parts.code == 0


def test_figures_that_cannot_be_measured_are_no_numbers(films):
    result = answered_alike("evaluate", f"{films}/films", "--similarity", f"{films}/pairs.txt")
    assert result.code == 3
    assert result.output.splitlines()[1].split() == ["pairs", "(Spearman)", "-", "2", "2"]
    assert "pairs.txt: the scores of its 2 pairs are all equal; no correlation" in result.log
    result = answered_alike("evaluate", f"{films}/films", "--similarity", f"{films}/unknown.txt")
    assert (result.code, "nan" in result.output + result.log) == (3, False)
    assert "unknown.txt: none of its 2 pairs has both words in the table" in result.log
    assert "nothing could be measured" in result.log


def test_wrong_options_show_before_spark_starts(films, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("Spark was started")

    monkeypatch.setattr(session, "get", refuse)
    assert embedall("evaluate", f"{films}/films").code == 2
    assert embedall("evaluate", f"{films}/films", "--labels", f"{films}/none.csv").code == 2
    assert embedall("evaluate", f"{films}/films", "--labels", "a", "--label-prefix", ".").code == 2
    assert embedall("similar", f"{films}/films", "0", "--names", f"{films}/none.tsv").code == 2
