"""A published table through several versions: rotated, held back, rolled back, read meanwhile; by the commands."""

import json
import threading
from unittest.mock import DEFAULT, Mock

import numpy as np
import pytest
from cli_runner import embedall
from mlflow import MlflowClient
from scipy.stats import ortho_group
from vector_tables import bits, table

from embedall_spark import publication, published_beside, published_codes, session, table_versions, tables
from embedall_spark.errors import ConfigError, QualityGateFailed
from embedall_spark.publish.gates import Publication
from embedall_spark.schemas import VECTORS

D, IDS = 6, 120


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("publication")


@pytest.fixture(scope="module")
def write(spark, place):
    """Write the candidate as a run with a seed would: the same words, turned, with a little noise."""
    before = np.random.default_rng(7).normal(size=(IDS, D))
    (place / "run").mkdir()
    (place / "run/manifest.json").write_text(json.dumps({"input": "files+fingerprint", "config": {}}))

    def candidate(seed, ids=range(IDS), kind="words", title=None):
        random = np.random.default_rng(seed)
        rows = before[list(ids)] @ ortho_group.rvs(D, random_state=random)
        rows += random.normal(scale=0.02, size=rows.shape)
        vectors = table(spark, [f"w{i}" for i in ids], rows, [1000 - i for i in ids])
        facts = {"kind": kind, "run_folder": f"{place}/run"}
        name = f"{place}/candidate-{kind}"
        if title is not None:
            titles = spark.createDataFrame([("w7", title)], "id string, title string")
            tables.write(spark, titles, f"{name}_metadata", titles.schema, mode="overwrite", run_id=f"seed-{seed}")
        tables.write(
            spark, vectors, name, VECTORS, mode="overwrite", run_id=f"seed-{seed}", vector_size=D, metadata=facts
        )
        return name

    return candidate


@pytest.fixture(scope="module")
def published(spark, place, write):
    """A table that has been published twice, the second time by the command."""
    name = f"{place}/published"
    assert publication.publish(spark, write(1), name, Publication()).version == 0
    result = embedall("publish", write(2, range(5, IDS), title="second"), "--to", name)
    assert result.code == 0, result.log
    return name, result


def test_the_next_version_lies_where_the_one_before_did(spark, published):
    name, result = published
    versions = [tables.read(spark, name, version).toArrow() for version in (0, 1)]
    before, after = (dict(zip(rows["id"].to_pylist(), rows["vector"].to_pylist(), strict=True)) for rows in versions)
    assert len(after) == IDS - 5
    np.testing.assert_allclose(list(after.values()), [before[key] for key in after], atol=0.15)
    assert "115 shared, 0 new, 5 lost (4.2%)" in result.output
    drift = {
        row.status: row["count"] for row in tables.read(spark, f"{name}_drift").groupBy("status").count().collect()
    }
    assert drift == {"shared": IDS - 5, "lost": 5}


def test_what_is_published_is_not_published_again(spark, place, published):
    name, _ = published
    result = publication.publish(spark, f"{place}/candidate-words", name, Publication())
    assert (result.repeated, result.version) == (True, 1)


def title(spark, name):
    (row,) = tables.read(spark, f"{name}_metadata").collect()
    return row.title


def alias(place):
    """Return the published table's version that the alias in MLflow stands for."""
    client = MlflowClient(tracking_uri=f"sqlite:///{place}/mlflow.db")
    return client.get_model_version_by_alias("words", "published").tags["embedall.version"]


def test_held_back_rolled_back_and_diff(spark, place, write, published, own_store):
    name, _ = published
    candidate = write(3, range(60), title="third")
    result = embedall("publish", candidate, "--to", name)
    assert result.code == 4
    assert "is held back: 60 published ids are not in it, 52.2%, more than 10.0% (gates.max_lost)" in result.log
    assert tables.version(spark, name) == 1
    options = Publication(gates={"max_lost": 0.6}, registered_model="words")
    publication.publish(spark, candidate, name, options)
    assert alias(place) == "2"
    wanted = bits(tables.read(spark, name, 1))
    assert title(spark, name) == "third"
    # Killed after its first commit.
    with pytest.MonkeyPatch.context() as patch:
        restore = Mock(wraps=table_versions.restore, side_effect=[DEFAULT, KeyboardInterrupt])
        patch.setattr(table_versions, "restore", restore)
        with pytest.raises(KeyboardInterrupt):
            published_beside.roll_back(spark, name, 1, "somebody")
    assert embedall("rollback", name, "--to", 1).output == f"{name}: version 3 is version 1 again\n"
    assert bits(tables.read(spark, name)) == wanted
    assert title(spark, name) == "second"
    assert alias(place) == "3"
    with pytest.raises(ConfigError, match="its version 2 was published before, and another one came in its place"):
        publication.publish(spark, candidate, name, Publication(gates={"max_lost": 0.6}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "get", lambda *_, **__: pytest.fail("history needs Spark"))
        lines = embedall("history", name).output.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["3", "2", "1", "0"]
    assert "rolled back to version 1" in lines[1]
    assert "version 2" in lines[2]
    # Read from the table's log, and asked of Spark.
    assert table_versions.versions(None, name) == table_versions.versions(spark, name)
    result = embedall("diff", name, "--before-version", 0, "--after-version", 2, "--picture", place / "drift.png")
    assert result.code == 0, result.log
    assert "60 shared, 0 new, 60 lost (50.0%)" in result.output
    assert (place / "drift.png").read_bytes().startswith(b"\x89PNG")


def test_a_reader_sees_one_version_or_the_next(spark, write, published):
    name, seen, stop = published[0], set(), threading.Event()

    def state(version=None):
        rows = tables.read(spark, name, version).selectExpr("vector[0] AS x").collect()
        return json.dumps(sorted(row.x for row in rows))

    def read():
        # Not all the time: each read is Spark jobs, which would slow down what it watches.
        while not stop.wait(0.3):
            seen.add(state())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        result = publication.publish(spark, write(11), name, Publication())
        embedall("rollback", name, "--to", result.version - 1)
    finally:
        stop.set()
        reader.join()
    states = {state(version) for version in (result.version - 1, result.version)}
    assert seen <= states
    assert seen


def codes(spark, name):
    return {row.id: (row.code, row.version) for row in tables.read(spark, f"{name}_codes").collect()}


def add_codes_beside_another_writer(spark, name):
    """Extend codes from a version that is not the latest any more, as where another publication was faster."""
    rows = table(spark, ["newer", "new", "w3"], np.ones((3, D)), [1, 2, 3])
    asked, latest = [], tables.version
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "version", lambda *names: asked.append(names) or (latest(*names) if asked[1:] else 0))
        patch.setattr(tables, "check_writable", lambda *_: None)
        published_codes.extend(spark, rows, name, 2, "slower")
    assert len(asked) == 2


def test_pictures_are_not_rotated_vanished_rows_marked_and_figures_of_runs_compared(spark, place, write):
    name = f"{place}/pictures"

    def publish(seed, ids, hit_rate):
        options = Publication(vanished="mark")
        figures = {"next_item/hit_rate_10": hit_rate, "popularity/hit_rate_10": 1 - hit_rate}
        return publication.publish(spark, write(seed, ids, "images"), name, options, run_figures=figures)

    publish(21, range(100), 0.5)
    # Killed just before its last commit.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publication, "dimension", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            publish(22, range(5, IDS), 0.495)
    result = publish(22, range(5, IDS), 0.495)
    assert (result.rotation, result.drift.lost) == (None, 5)
    assert bits(tables.read(spark, f"{place}/candidate-images")).items() <= bits(tables.read(spark, name)).items()
    rows = {row.id: row["count"] for row in tables.read(spark, name).collect()}
    assert sorted(key for key, count in rows.items() if count == 0) == [f"w{i}" for i in range(5)]
    assert len(rows) == IDS
    # By descending count, of each publication; the one that was killed has given them, and nothing is given twice.
    wanted = {f"w{i}": (i, int(i >= 100)) for i in range(IDS)}
    assert codes(spark, name) == wanted
    assert tables.version(spark, f"{name}_codes") == 1
    add_codes_beside_another_writer(spark, name)
    assert codes(spark, name) == wanted | {"new": (IDS, 2), "newer": (IDS + 1, 2)}
    with pytest.raises(QualityGateFailed, match=r"hit_rate_10 falls from 0\.4950 to 0\.4800, more than 0\.01") as held:
        publish(23, range(5, IDS), 0.48)
    assert "popularity" not in str(held.value)


def test_refusals(spark, write, published):
    name, _ = published
    with pytest.raises(ConfigError, match="went through another network than those of the published version"):
        publication.publish(spark, write(1, kind="images"), name, Publication())
    with pytest.raises(QualityGateFailed, match=r"analogy/total is nan, need 0.3"):
        floors = {"floors": {"analogy/total": 0.3}, "max_lost": 1.0}
        publication.publish(spark, write(4), f"{name}-new", Publication(gates=floors))
    assert embedall("publish", name, "--to", name).code == 2
    assert embedall("rollback", name, "--to", 99).code == 1
