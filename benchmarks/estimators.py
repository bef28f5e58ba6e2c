"""One Pipeline twice, with MLlib's Word2Vec and with ours: the import is all that differs."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import numpy as np
from pyspark.ml import Pipeline
from pyspark.ml.feature import RegexTokenizer

from embedall_spark import session
from embedall_spark.evaluate import benchmark_files

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

WORKERS, DIMENSIONS, ITERATIONS = 2, 100, 1
QUICK, TOKENS = 100_000, 1_000_000
GOALS = {"end_to_end_over_mllib": 10.0, "similarity_minus_mllib": 0.0}
PAIRS = common.SHARED.parents[1] / "word_eval" / "EN-WS-353-ALL.txt"
LIMIT = 600


def run(library: str, lines: str) -> dict[str, Any]:
    """Fit the pipeline to a file of lines and transform it; return what that takes, and the correlation with WS-353.

    "cpu_seconds" are those of all processes: on a busy machine they say more than seconds.
    """
    if library == "mllib":
        from pyspark.ml.feature import Word2Vec
    else:
        from embedall_spark.ml import Word2Vec
    spark = session.get("estimators", master=f"local[{WORKERS}]", extra={"spark.driver.memory": "3g"})
    stage = Word2Vec(
        vectorSize=DIMENSIONS, numPartitions=WORKERS, maxIter=ITERATIONS, seed=1, inputCol="words", outputCol="vector"
    )
    pipeline = Pipeline(stages=[RegexTokenizer(inputCol="value", outputCol="words"), stage])
    fit(pipeline, spark.read.text(lines).limit(3))
    documents = spark.read.text(lines)
    before = common.cpu_seconds()
    seconds, model = fit(pipeline, documents)
    figures = {"seconds": seconds, "cpu_seconds": common.cpu_seconds() - before}
    vectors = {row.word: row.vector.toArray() for row in model.stages[-1].getVectors().collect()}
    return figures | {"vocabulary": len(vectors), "similarity": similarity(vectors)}


def fit(pipeline: Pipeline, documents: DataFrame) -> tuple[float, Any]:
    """Return the seconds that fit and transform take, and the model."""
    since = time.perf_counter()
    model = pipeline.fit(documents)
    model.transform(documents).select("vector").write.format("noop").mode("overwrite").save()
    return time.perf_counter() - since, model


def similarity(vectors: dict[str, np.ndarray]) -> float:
    """Return Spearman's correlation of the cosines of known pairs with human scores; NaN without the file."""
    from scipy.stats import spearmanr

    if not PAIRS.is_file():
        return float("nan")
    pairs = [(a.lower(), b.lower(), score) for a, b, score in benchmark_files.pairs(str(PAIRS))]
    known = [(vectors[a], vectors[b], score) for a, b, score in pairs if a in vectors and b in vectors]
    cosines = [a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b, _ in known]
    return float(spearmanr(cosines, [score for *_, score in known]).statistic)


def main() -> None:
    """Run both, each in a process of its own, ours before and after MLlib's."""
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(run(*sys.argv[2:4])))
        return
    options = common.options(__doc__ or "").parse_args()
    common.announce(10)
    tokens = options.tokens or (QUICK if options.quick else TOKENS)
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as work:
        lines = common.corpus(options.corpus, tokens, work)
        if lines is not None:
            ours, peer, again = (one(library, lines) for library in ("ours", "mllib", "ours"))
            seconds = (ours["seconds"] + again["seconds"]) / 2
            ratios = {
                "end_to_end_over_mllib": peer["seconds"] / seconds,
                "cpu_over_mllib": 2 * peer["cpu_seconds"] / (ours["cpu_seconds"] + again["cpu_seconds"]),
                "similarity_minus_mllib": (ours["similarity"] + again["similarity"]) / 2 - peer["similarity"],
            }
    print(common.result("estimators", ratios, GOALS))


def one(library: str, lines: Path) -> dict[str, Any]:
    """Run one library in a process of its own."""
    said = common.measured([sys.executable, __file__, "--one", library, str(lines)], LIMIT).said
    common.say(library, **said)
    return said


if __name__ == "__main__":
    main()
