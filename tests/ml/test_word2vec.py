"""Word2Vec in the place of pyspark.ml.feature's: its own examples, the behavior of its tests, and what is ours."""

import doctest
import json
import logging
import re

import numpy as np
import pyarrow.parquet as pq
import pyspark.ml.feature as peer
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.ml.linalg import DenseVector
from pyspark.ml.regression import LinearRegression
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder
from pyspark.sql import types as T
from toy_corpus import documents

from embedall_spark.errors import BadData, ConfigError, SchemaMismatch, TableError, UnknownId
from embedall_spark.ml import Word2Vec, Word2VecModel, vectors_model
from embedall_spark.train.config import TrainConfig

SAME = ("vectorSize", "minCount", "numPartitions", "stepSize", "maxIter", "windowSize", "maxSentenceLength")
NUMBER = re.compile(r" *-?\d+(\.\d+)?(E-?\d+)?")


@pytest.fixture(scope="module")
def sentences(spark):
    words = [(line.lower().rstrip(".").split(), float(number % 2)) for number, line in enumerate(documents(300))]
    return spark.createDataFrame(words, "text array<string>, label double").cache()


@pytest.fixture(scope="module")
def stage():
    return Word2Vec(vectorSize=8, minCount=2, seed=3, inputCol="text", outputCol="vector", sample=0.0, threads=1)


@pytest.fixture(scope="module")
def models(stage, sentences):
    """One of each window, by a list of param maps."""
    shared = {stage.windowSize: 10, stage.numPartitions: 2, stage.negative: 5}
    return stage.fit(sentences, [{stage.windowSize: 2}, shared])


class Checker(doctest.OutputChecker):
    """Compares the examples' output but for the numbers."""

    def check_output(self, want, got, flags):
        want, got = (NUMBER.sub("N", text) for text in (want, got))
        # b and c occur beside a alone: which of them is nearer to it is the seed's choice.
        want, got = (text.replace("'c'", "'b'").replace("|   c|", "|   b|") for text in (want, got))
        return super().check_output(want, got, flags | doctest.ELLIPSIS)


@pytest.mark.slow
def test_the_examples_of_pyspark(spark, tmp_path):
    names = {"spark": spark, "temp_path": str(tmp_path), "Word2Vec": Word2Vec, "Word2VecModel": Word2VecModel}
    examples = doctest.DocTestParser().get_doctest(peer.Word2Vec.__doc__, names, "Word2Vec", "pyspark", 0)
    assert len(examples.examples) > 20
    report = []
    outcome = doctest.DocTestRunner(Checker()).run(examples, out=report.append)
    assert outcome.failed == 0, "".join(report)


def test_params_have_the_defaults_of_pyspark_and_ours_those_of_the_configuration():
    ours = Word2Vec(inputCol="text")
    theirs = peer._Word2VecParams()
    assert {name: ours.getOrDefault(name) for name in SAME} == {name: theirs.getOrDefault(name) for name in SAME}
    assert (ours.getSeed(), ours.getMaxFinalVocab(), ours.getNsExponent()) == (1, None, 0.75)
    assert ours.ns_exponent.doc == TrainConfig.model_fields["ns_exponent"].description
    assert ours.negative.doc.startswith(TrainConfig.model_fields["negative"].description)
    assert "negative samples per center" in ours.explainParams()
    assert (ours.uid[:9], ours.getOutputCol()) == ("Word2Vec_", f"{ours.uid}__output")
    set_ = ours.setVectorSize(5).setNumPartitions(3).setMinCount(2).setWindowSize(7).setMaxSentenceLength(9)
    set_ = set_.setMaxIter(4).setSeed(6).setStepSize(0.5).setNegative(8).setOutputCol("vector")
    assert set_ is ours
    copied = ours.copy({ours.vectorSize: 11})
    assert (copied.getVectorSize(), ours.getVectorSize(), copied.uid) == (11, 5, ours.uid)
    assert copied.extractParamMap()[copied.negative] == 8
    ours.clear(ours.vectorSize)
    assert ours.getVectorSize() == 100


@pytest.mark.parametrize(
    ("params", "method"),
    [
        ({}, (1, 0, 0.0, 1)),
        ({"numPartitions": 8, "workers": 1, "device": "cpu"}, (1, 0, 0.0, 1)),
        ({"sample": 1e-4}, (1, 0, 1e-4, 1)),
        ({"negative": 7}, (0, 7, 1e-3, 1)),
        ({"hs": 1, "negative": 0, "numPartitions": 8}, (1, 0, 1e-3, 1)),
        ({"sg": 0, "sample": 0.0}, (0, 5, 0.0, 1)),
        ({"device": "cuda"}, (0, 5, 1e-3, 1)),
    ],
)
def test_the_method_is_mllibs_unless_a_param_chooses_another(params, method):
    config = Word2Vec(**params)._training(None)
    assert (config.hs, config.negative, config.sample, config.workers) == method


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"negativ": 3}, TypeError, "did you mean negative"),
        ({"vectorSize": "many"}, TypeError, "vectorSize"),
    ],
)
def test_params_that_do_not_exist(params, error, message):
    with pytest.raises(error, match=message):
        Word2Vec(**params)


@pytest.mark.slow
def test_what_is_refused_before_a_job_starts(spark, sentences, stage, monkeypatch):
    monkeypatch.setattr(Word2Vec, "_training", lambda *_: pytest.fail("too late"))
    for params, error, message in (
        ({"inputCol": "none"}, SchemaMismatch, "no column none"),
        ({"inputCol": "label"}, SchemaMismatch, "need array<string>"),
    ):
        with pytest.raises(error, match=message):
            Word2Vec(**params).fit(sentences)
    with pytest.raises(ConfigError, match="inputCol is not set"):
        Word2Vec().fit(sentences)
    monkeypatch.undo()
    for params, message in (({"vectorSize": 0}, "vector_size"), ({"hs": 0, "negative": 0}, "nothing to train by")):
        with pytest.raises(ConfigError, match=message):
            stage.copy().setParams(**params).fit(sentences)


@pytest.mark.slow
def test_an_empty_vocabulary_is_named(sentences, stage):
    with pytest.raises(BadData, match="min_count"):
        stage.fit(sentences, {stage.minCount: 10_000})


@pytest.mark.slow
def test_a_document_is_the_mean_of_its_words(spark, models):
    model = models[0]
    vectors = {row.word: row.vector.toArray() for row in model.getVectors().collect()}
    some = list(vectors)[:3]
    # As of NGram and other transformers, elements may be null.
    rows = [(some,), ([some[0], "unknown", None],), ([],), (["unknown"],), (None,)]
    found = model.transform(spark.createDataFrame(rows, "text array<string>")).collect()
    assert np.allclose(found[0].vector, np.mean([vectors[word] for word in some], axis=0))
    # MLlib divides by the number of all words; a null is one.
    assert np.allclose(found[1].vector, vectors[some[0]] / 3)
    assert [row.vector for row in found[2:]] == [DenseVector(np.zeros(8)), DenseVector(np.zeros(8)), None]
    copied = model.copy({model.outputCol: "other"})
    assert copied.transform(spark.createDataFrame(rows[:1], ["text"])).first().other == found[0].vector


@pytest.mark.slow
def test_similarities_of_large_vectors_are_finite(spark, tmp_path):
    """One of the cases of MLlib's suite: squares of such numbers are infinite in single precision."""
    rows = [(0, "a", 2, [-4.3e21, 5.3e21]), (1, "b", 1, [-3.1e21, 4.9e21])]
    vectors_model.write(spark.createDataFrame(rows, vectors_model.TABLE), f"{tmp_path}/data", 2, 2)
    model = Word2VecModel()
    model._load_data(str(tmp_path), {"numVectors": 2, "dimension": 2})
    a, b = (np.array(vector) / 1e21 for *_, vector in rows)
    ((word, similarity),) = model.findSynonymsArray("a", 1)
    assert (word, similarity) == ("b", pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5))


@pytest.mark.slow
def test_windows_differ_and_two_workers_train(models):
    assert [model.getWindowSize() for model in models] == [2, 10]
    small, large = ({row.word: row.vector for row in model.getVectors().collect()} for model in models)
    assert small.keys() == large.keys()
    assert any(not np.allclose(small[word], large[word]) for word in small)
    assert all(np.isfinite(vector.toArray()).all() for vector in large.values())


@pytest.mark.slow
def test_synonyms_are_a_numpy_reference(models):
    model = models[1]
    rows = model.getVectors().collect()
    unit = np.array([row.vector / row.vector.norm(2) for row in rows])
    query = rows[5]
    order = np.argsort(-(unit @ unit[5]))
    expected = [(rows[place].word, float(unit[place] @ unit[5])) for place in order if place != 5][:4]
    table = model.findSynonyms(query.word, 4)
    assert table.dtypes == [("word", "string"), ("similarity", "double")]
    found = [tuple(row) for row in table.collect()]
    assert [word for word, _ in found] == [word for word, _ in expected]
    assert np.allclose([score for _, score in found], [score for _, score in expected], atol=1e-5)
    assert model.findSynonymsArray(query.word, 4) == found
    # By its vector, the word itself is the nearest.
    assert [word for word, _ in model.findSynonymsArray(query.vector, 5)] == [query.word, *[w for w, _ in found]]
    with pytest.raises(UnknownId, match="nowhere not in vocabulary"):
        model.findSynonyms("nowhere", 2)
    for word, num in ((query.word, 0), (DenseVector([1.0, 2.0]), 1)):
        with pytest.raises(ConfigError):
            model.findSynonyms(word, num)


@pytest.mark.slow
def test_what_is_saved_is_spark_s_format_and_is_read_without_spark(spark, sentences, models, stage, tmp_path):
    path, model = f"{tmp_path}/model", models[0]
    model.save(path)
    (line,) = [file.read_text() for file in (tmp_path / "model" / "metadata").glob("part-*")]
    metadata = json.loads(line)
    assert metadata.keys() >= {"class", "timestamp", "sparkVersion", "uid", "paramMap", "defaultParamMap"}
    assert (metadata["class"], metadata["uid"]) == ("embedall_spark.ml.word2vec.Word2VecModel", stage.uid)
    assert metadata["paramMap"]["windowSize"] == 2
    table = pq.read_table(f"{path}/data")
    assert table["token"].to_pylist() == [row.word for row in model.getVectors().collect()]
    loaded = Word2VecModel.load(path)
    assert (repr(loaded), loaded.getWindowSize(), loaded.getSeed()) == (repr(model), 2, 3)
    assert loaded.transform(sentences).first() == model.transform(sentences).first()
    with pytest.raises(TableError, match="exists already"):
        model.save(path)
    model.write().overwrite().save(path)
    with pytest.raises(TableError, match="reads its vectors from there"):
        loaded.write().overwrite().save(path)
    with pytest.raises(TableError, match="need a"):
        Word2Vec.load(path)
    changed = dict.fromkeys(SAME, 3) | {"seed": 7, "negative": 9, "shrink_windows": False, "run_root": "runs"}
    written = stage.copy().setParams(**changed)
    written.save(f"{tmp_path}/stage")
    again = Word2Vec.load(f"{tmp_path}/stage")
    for values in (lambda part: part.extractParamMap(), lambda part: part._defaultParamMap):
        assert {param.name: value for param, value in values(again).items()} == {
            param.name: value for param, value in values(written).items()
        }
    assert (again.uid, again.getStepSize(), again.getThreads(), again.isSet("sg")) == (stage.uid, 3.0, 1, False)


@pytest.mark.slow
def test_in_a_pipeline_and_its_model(sentences, stage, models, tmp_path):
    pipeline = Pipeline(stages=[stage, LinearRegression(featuresCol="vector", maxIter=1)])
    pipeline.write().overwrite().save(f"{tmp_path}/pipeline")
    loaded = Pipeline.load(f"{tmp_path}/pipeline")
    assert [type(part) for part in loaded.getStages()] == [Word2Vec, LinearRegression]
    fitted = PipelineModel([models[0]])
    fitted.save(f"{tmp_path}/fitted")
    again = PipelineModel.load(f"{tmp_path}/fitted")
    assert again.transform(sentences).first() == models[0].transform(sentences).first()


@pytest.mark.slow
def test_cross_validation(sentences, stage, tmp_path):
    regression = LinearRegression(featuresCol="vector", maxIter=1)
    grid = ParamGridBuilder().addGrid(stage.vectorSize, [4]).build()
    pipeline = Pipeline(stages=[stage, regression])
    validator = CrossValidator(
        estimator=pipeline, estimatorParamMaps=grid, evaluator=RegressionEvaluator(), numFolds=2, seed=1
    )
    validator.save(f"{tmp_path}/validator")
    assert CrossValidator.load(f"{tmp_path}/validator").getEstimator().getStages()[0].uid == stage.uid
    best = validator.fit(sentences).bestModel
    assert best.stages[0].getVectors().first().vector.size == 4


@pytest.mark.slow
def test_too_many_workers_are_lowered(spark, caplog):
    rows = spark.createDataFrame([(["a", "b", "a", "b"] * 5,)], T.StructType.fromDDL("text array<string>"))
    with caplog.at_level(logging.WARNING):
        options = {"vectorSize": 2, "minCount": 0, "maxSentenceLength": 6, "negative": 5}
        stage = Word2Vec(numPartitions=64, inputCol="text", **options)
        model = stage.fit(rows)
    assert model.getVectors().count() == 2
    assert "64 workers, but 2 task slots" in caplog.text
    assert "vocabulary of 2 is too small for more than 1" in caplog.text
