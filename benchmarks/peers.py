"""The peers of words.py: gensim's and Spark MLlib's Word2Vec.

``peers.py NAME LINES DIM EPOCHS SAVE OPTIONS`` prints JSON.
NAME is mllib, gensim or the path of the program pWord2Vec; OPTIONS are gensim's further ones, as JSON.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common

from embedall_spark import session

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyspark.sql import SparkSession

MLLIB_TOKENS = 200_000
_MIN_COUNT = 5
_MORE = 2
# Ours, where gensim has others.
_DEFAULTS = {"window": 5, "sample": 1e-3, "sg": 1, "hs": 0, "negative": 5}
METHODS: dict[str, dict[str, float]] = {
    "sgns": {},
    "cbow": {"sg": 0},
    "hs": {"hs": 1, "negative": 0},
    "cbow-hs": {"sg": 0, "hs": 1, "negative": 0},
    "subwords": {"max_n": 6},
    "cbow-subwords": {"sg": 0, "max_n": 6},
}
"""Options of word2vec's methods under gensim's names, which are ours below ``train``."""


def gensim(lines: str, dim: int, epochs: int, save: str | None, options: Mapping[str, float]) -> dict[str, Any]:
    """Train gensim's Word2Vec, or FastText where the options have ``max_n``; return words per second of each epoch."""
    from gensim.models import FastText, KeyedVectors, Word2Vec
    from gensim.models.callbacks import CallbackAny2Vec

    class Clock(CallbackAny2Vec):  # type: ignore[misc]
        """Notes when epochs begin and end."""

        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.since = 0.0

        def on_epoch_begin(self, _: Word2Vec) -> None:
            self.since = time.perf_counter()

        def on_epoch_end(self, _: Word2Vec) -> None:
            self.seconds.append(time.perf_counter() - self.since)

    clock = Clock()
    model = (FastText if "max_n" in options else Word2Vec)(
        corpus_file=lines, vector_size=dim, min_count=_MIN_COUNT, workers=common.THREADS,
        epochs=epochs, seed=1, callbacks=[clock], **_DEFAULTS | options,
    )  # fmt: skip
    if save is not None:
        # Without the rows of n-grams, which would be most of the file.
        vectors = KeyedVectors(dim)
        vectors.add_vectors(model.wv.index_to_key, model.wv.vectors)
        vectors.save(save)
    tokens = sum(model.wv.get_vecattr(word, "count") for word in model.wv.index_to_key)
    return {"words_per_second": [tokens / seconds for seconds in clock.seconds], "vocabulary": len(model.wv)}


def pword2vec(program: str, lines: str, dim: int, epochs: int, save: str) -> dict[str, Any]:
    """Train with pWord2Vec (Ji et al. 2016, arXiv 1604.04661); return its last own words per second."""
    from gensim.models import KeyedVectors

    text = f"{save}.txt"
    options = {
        "train": lines, "output": text, "size": dim, "window": 5, "sample": 1e-3, "negative": 5, "iter": epochs,
        "min-count": _MIN_COUNT, "threads": common.THREADS, "alpha": 0.025, "batch-size": 11,
    }  # fmt: skip
    command = [program, *(str(part) for name, value in options.items() for part in (f"-{name}", value))]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    vectors = KeyedVectors.load_word2vec_format(text)
    vectors.save(save)
    rate = re.findall(r"Words/sec: ([0-9.]+)k", output)[-1]
    return {"words_per_second": [1000 * float(rate)], "vocabulary": len(vectors)}


def mllib(spark: SparkSession, lines: str, dim: int, work: str, tokens: int = MLLIB_TOKENS) -> dict[str, Any]:
    """Train MLlib's Word2Vec (hierarchical softmax) on the first tokens of a file; return words per second.

    The rate is that of the iterations by which one fit is longer than another, so that neither counting words nor
    Spark's start counts.
    """
    from pyspark.ml.feature import Word2Vec
    from pyspark.sql import functions as F

    head = common.corpus(Path(lines), tokens, work)
    assert head is not None
    texts = spark.read.text(str(head)).select(F.split("value", " ").alias("words")).repartition(common.THREADS).cache()
    counts = Counter(head.read_text(encoding="utf-8").split())
    frequent = sum(count for count in counts.values() if count >= _MIN_COUNT)

    def seconds(iterations: int) -> float:
        since = time.perf_counter()
        Word2Vec(
            vectorSize=dim, windowSize=5, minCount=_MIN_COUNT, numPartitions=common.THREADS, maxIter=iterations,
            stepSize=0.025, seed=1, maxSentenceLength=1000, inputCol="words", outputCol="vector",
        ).fit(texts)  # fmt: skip
        return time.perf_counter() - since

    # The first one warms Java up.
    _, short, long = seconds(1), seconds(1), seconds(1 + _MORE)
    texts.unpersist()
    return {"words_per_second": [_MORE * frequent / (long - short)], "tokens": frequent}


def main(name: str, lines: str, dim: str, epochs: str, save: str, options: str) -> None:
    """Run one peer in this process and print what it figures."""
    if "/" in name:
        figures = pword2vec(name, lines, int(dim), int(epochs), save)
    elif name != "mllib":
        figures = gensim(lines, int(dim), int(epochs), save, json.loads(options))
    else:
        spark = session.get("peers", master=f"local[{common.THREADS}]")
        figures = mllib(spark, lines, int(dim), str(Path(save).parent))
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
