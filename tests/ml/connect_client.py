"""A client of Spark Connect, which has no JVM; test_connect.py runs it, since a process has one kind of session.

Usage: connect_client.py FOLDER, with the server's address in SPARK_REMOTE, and in FOLDER what tiny_inputs.write()
writes.
"""

import json
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import tiny_inputs
from pyspark.ml import Pipeline
from pyspark.sql import functions as F

from embedall_spark import cli, cluster_slots, doctor, kinds, session
from embedall_spark.ml import Item2Vec, LatentSpace, NearestNeighbors, Node2Vec, Word2Vec, Word2VecModel

TRAIN = {"vector_size": 4, "epochs": 1, "threads": 1, "sample": 0.0}


def main(folder: str) -> None:
    spark = session.get("connect")
    assert cluster_slots.is_remote(spark) and cluster_slots.local(spark) == 2
    report = use_word2vec(spark, folder) | {"others": [fit(spark) for fit in (items, nodes, neighbors, space)]}
    report["commands"] = run_commands(folder)
    report["doctor"] = [doctor.java(), doctor.delta()]
    print(json.dumps(report))


def use_word2vec(spark, folder):
    """Two workers, which are barrier tasks."""
    text = spark.read.text(f"{folder}/corpus.txt").select(F.split(F.lower("value"), " ").alias("text"))
    options = {"vectorSize": 8, "minCount": 2, "numPartitions": 2, "negative": 5, "threads": 1}
    stage = Word2Vec(inputCol="text", outputCol="vector", **options)
    stage.save(f"{folder}/stage")
    fitted = Pipeline(stages=[Word2Vec.load(f"{folder}/stage")]).fit(text)
    fitted.stages[0].save(f"{folder}/model")
    model = Word2VecModel.load(f"{folder}/model")
    assert model.uid == stage.uid
    word = model.getVectors().first().word
    synonyms = [tuple(row) for row in model.findSynonyms(word, 3).collect()]
    vector = fitted.transform(text).first().vector
    return {"word": word, "synonyms": synonyms, "vector": vector.toArray().tolist()}


def items(spark):
    baskets = spark.createDataFrame([(list("abcd"),), (list("efgh"),)] * 10, ["basket"])
    model = Item2Vec(inputCol="basket", outputCol="vector", min_count=1, **TRAIN).fit(baskets)
    return model.transform(baskets).first().vector.size


def nodes(spark):
    edges = spark.createDataFrame([("a", "b"), ("b", "c"), ("c", "a")], ["src", "dst"])
    return Node2Vec(num_walks=2, walk_length=4, **TRAIN).fit(edges).getVectors().count()


def neighbors(spark):
    rows = spark.createDataFrame([(n, [float(n), 1.0]) for n in range(8)], "id int, vector array<float>")
    return NearestNeighbors(k=2, outputCol="near").fit(rows).kneighbors().count()


def space(spark):
    random = np.random.default_rng(1)
    pairs = [(n, random.normal(size=3).tolist(), random.normal(size=2).tolist()) for n in range(60)]
    rows = spark.createDataFrame(pairs, "id int, left array<double>, right array<double>")
    return LatentSpace(k=[2], same=1.0).fit(rows).suggest(rows.limit(2), 3).count()


def run_commands(folder):
    """Every kind by its command, and two searches by Spark; return the last line of each: a summary, or a hit."""
    done = {kind: call(kind, *tiny_inputs.arguments(kind, Path(folder))) for kind in kinds.names()}
    nodes, images = f"{folder}/out/nodes", f"{folder}/out/images"
    return done | {
        "search": call("search", images, "--limit", "0", "-n", "3", "--id", "0.png"),
        "queries": call("search", nodes, "--queries", nodes, "--output", f"{folder}/out/near"),
    }


def call(*command):
    """Run a command; return the last line of its output."""
    with redirect_stdout(StringIO()) as output:
        code = cli.call([*command])
    assert code == 0, command
    return output.getvalue().splitlines()[-1]


if __name__ == "__main__":
    main(sys.argv[1])
