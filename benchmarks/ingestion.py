"""From text to sequence blocks: MB of text per second on 2 cores in a warm session, beside gensim's plain Python.

Ours reads, tokenizes, counts and encodes, and keeps every stage on disk; gensim tokenizes with ``utils.tokenize`` and
counts the vocabulary.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import common

from embedall_spark import config as configs
from embedall_spark import session
from embedall_spark.corpus import blocking, blocks, encoded_pages, vocabulary
from embedall_spark.kinds import words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import SparkSession

    from embedall_spark.kinds.words import Config

GOALS = {"megabytes_per_second": 30.0, "over_gensim": 4.0}
# Spark's jobs cost about two seconds, whatever the size: a small corpus tells less of the rate.
QUICK_GOALS = {"over_gensim": 1.0}
QUICK_TOKENS = 2_000_000
ROUNDS, QUICK_ROUNDS = 5, 1
# gensim's rate does not depend on how much it reads.
PEER_BYTES, QUICK_PEER_BYTES = 20_000_000, 4_000_000
MEGABYTE = 1_000_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = common.options(__doc__ or "")
    options = parser.parse_args(arguments)
    ratios: dict[str, float] = {}
    if not common.absent("gensim"):
        with tempfile.TemporaryDirectory(prefix="embedall-ingestion-") as work:
            lines = common.corpus(options.corpus, options.tokens or (QUICK_TOKENS if options.quick else None), work)
            if lines is not None:
                if not options.quick:
                    common.announce(5)
                ratios = measure(lines, Path(work), options.quick)
    print(common.result("ingestion", ratios, QUICK_GOALS if options.quick else GOALS))


def measure(lines: Path, work: Path, quick: bool) -> dict[str, float]:
    """Return our rate in MB of text per second, and its ratio to gensim's; the first pass is cold and only shown."""
    spark = session.get("ingestion", master=f"local[{common.THREADS}]")
    values = {"input": {"path": str(lines)}, "output": {"table": str(work / "words")}}
    config, size = configs.parse(words.Config, values), lines.stat().st_size / MEGABYTE
    ours: list[float] = []
    theirs: list[float] = []
    common.say("cold", **ingest(spark, work, "cold", config, size))
    for turn in range(QUICK_ROUNDS if quick else ROUNDS):
        facts = ingest(spark, work, f"warm-{turn}", config, size)
        ours.append(facts["megabytes_per_second"])
        theirs.append(gensim(lines, QUICK_PEER_BYTES if quick else PEER_BYTES))
        common.say(f"round {turn + 1}", **facts, gensim=theirs[-1])
    return {"megabytes_per_second": median(ours), "over_gensim": median(ours) / median(theirs)}


def ingest(spark: SparkSession, work: Path, name: str, config: Config, megabytes: float) -> dict[str, Any]:
    """Do what ``embedall words`` does before it trains; return the rate and the seconds of each stage."""
    run = common.open_run(spark, work, name, config)
    marks = [time.perf_counter()]
    pages = run.stage("pages", lambda: encoded_pages.from_documents(words.read(spark, config), config.tokens))
    run.check_reject_share(*encoded_pages.reject_counts(pages))
    marks.append(time.perf_counter())
    words_counted = vocabulary.build(run, pages, config.vocabulary)
    number = blocks.block_count(vocabulary.total_tokens(words_counted))
    marks.append(time.perf_counter())
    run.stage("blocks", lambda: blocking.from_pages(pages, run.stage_path("vocabulary"), number))
    marks.append(time.perf_counter())
    seconds = {stage: marks[at + 1] - marks[at] for at, stage in enumerate(("pages", "vocabulary", "blocks"))}
    return {"megabytes_per_second": megabytes / (marks[-1] - marks[0]), "seconds": seconds}


def gensim(lines: Path, most: int) -> float:
    """Return gensim's rate in MB per second on at most so many bytes."""
    from gensim.models import Word2Vec
    from gensim.utils import tokenize

    with lines.open(encoding="utf-8", errors="replace") as file:
        texts = file.readlines(most)
    since = time.perf_counter()
    Word2Vec(min_count=5).build_vocab(list(tokenize(text, lower=True)) for text in texts)
    return sum(len(text.encode()) for text in texts) / MEGABYTE / (time.perf_counter() - since)


if __name__ == "__main__":
    main()
