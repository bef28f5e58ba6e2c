"""A client of Spark Connect, which has no JVM; test_connect.py runs it, since a process has one kind of session.

Usage: connect_client.py FOLDER, with the server's address in SPARK_REMOTE and in FOLDER the text "corpus.txt".
"""

import json
import sys

import numpy as np
from pyspark.ml import Pipeline, PipelineModel
from pyspark.sql import functions as F

from embedall_spark import cluster_slots, run_store, session
from embedall_spark.config import parse
from embedall_spark.kinds import words
from embedall_spark.ml import Item2Vec, LatentSpace, NearestNeighbors, Node2Vec, Word2Vec, Word2VecModel

TRAIN = {"vector_size": 4, "epochs": 1, "threads": 1, "sample": 0.0}


def main(folder: str) -> None:
    spark = session.get("connect")
    assert cluster_slots.is_remote(spark) and cluster_slots.local(spark) == 2
    report = use_word2vec(spark, folder) | {"others": [fit(spark) for fit in (items, nodes, neighbors, space)]}
    print(json.dumps(report | {"kind": embed_words(spark, folder)}))


def use_word2vec(spark, folder):
    """Two workers, which are barrier tasks."""
    text = spark.read.text(f"{folder}/corpus.txt").select(F.split(F.lower("value"), " ").alias("text"))
    options = {"vectorSize": 8, "minCount": 2, "numPartitions": 2, "negative": 5, "threads": 1}
    stage = Word2Vec(inputCol="text", outputCol="vector", **options)
    stage.save(f"{folder}/stage")
    fitted = Pipeline(stages=[Word2Vec.load(f"{folder}/stage")]).fit(text)
    fitted.save(f"{folder}/pipeline")
    (model,) = PipelineModel.load(f"{folder}/pipeline").stages
    assert isinstance(model, Word2VecModel) and model.uid == stage.uid
    word = model.getVectors().first().word
    model.write().overwrite().save(f"{folder}/model")
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


def embed_words(spark, folder):
    """What ``embedall words`` calls, without the command around it."""
    values = {"input": {"path": f"{folder}/corpus.txt"}, "output": {"table": f"{folder}/words"}}
    config = parse(words.Config, values | {"train": TRAIN, "vocabulary": {"min_count": 2}})
    run = run_store.local(spark, f"{folder}/run")
    return words.embed(run, words.read(spark, config), config).count()


if __name__ == "__main__":
    main(sys.argv[1])
