"""Words with n-grams as a user has them: a table, its n-grams, a search for a word never seen, fastText's file."""

import numpy as np
import pytest
from cli_runner import embedall
from gensim.models.fasttext import load_facebook_model, load_facebook_vectors
from toy_corpus import TOPIC_OF, configure, documents, write

from embedall_spark import config as configs
from embedall_spark import tables
from embedall_spark.errors import ConfigError
from embedall_spark.kinds import nodes, words
from embedall_spark.schemas import NGRAMS
from embedall_spark.train import preflight
from embedall_spark.train.plan import Corpus

UNSEEN = "рекамост"  # a compound of two words of one topic that the corpus does not have
NOWHERE = "qzxjvk"  # none of its n-grams occurs


@pytest.fixture(scope="module")
def table(spark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("subwords")
    write(folder / "corpus", documents())
    train = {"max_n": 5, "bucket": 50_000, "epochs": 3, "context": True}
    done = embedall("words", "--config", configure(folder, f"{folder}/corpus/*.txt", train=train))
    assert done.code == 0, done.log
    return done.summary["table"]


@pytest.mark.slow
@pytest.mark.usefixtures("own_store")
class TestTable:
    def test_the_ngrams_are_a_table_of_the_same_run(self, spark, table):
        ngrams = tables.read(spark, f"{table}_ngrams")
        assert ngrams.columns == NGRAMS.names
        rows = ngrams.collect()
        assert len({row.bucket for row in rows}) == len(rows) > len(TOPIC_OF)
        assert {(row.min_n, row.max_n, row.buckets) for row in rows} == {(3, 5, 50_000)}
        assert {row.run_id for row in rows} == {row.run_id for row in tables.read(spark, table).collect()}

    def test_a_word_never_seen_has_neighbors(self, table):
        found = embedall("similar", table, UNSEEN, "река", NOWHERE, "-n", 3)
        assert (found.code, f"'{NOWHERE}' is not in the table" in found.log) == (1, True)
        assert f"'{UNSEEN}' is not in the table; its vector is composed from its n-grams" in found.output
        neighbors = found.output.split(f"{UNSEEN}\n")[1].split("\n\n")[0].split()[1::3]
        assert [TOPIC_OF[name] for name in neighbors] == ["water"] * 3
        by_id = embedall("search", table, "--id", UNSEEN, "-n", 1)
        assert by_id.code == 0 and neighbors[0] in by_id.output

    def test_a_word_never_seen_is_a_part_of_analogies(self, table):
        answered = embedall("analogy", table, "река", UNSEEN, "мост", "-n", 3)
        assert answered.code == 0, answered.log
        assert f"'{UNSEEN}' is not in the table; its vector is composed" in answered.output
        summed = embedall("analogy", table, "--positive", UNSEEN, "--negative", "песня", "-n", 3)
        assert summed.code == 0 and TOPIC_OF[summed.output.splitlines()[2].split()[1]] == "water", summed.output
        refused = embedall("analogy", table, "река", NOWHERE, "мост")
        assert refused.code == 1 and f"'{NOWHERE}' is not in the table" in refused.log

    def test_gensim_has_the_same_vectors_also_of_words_never_seen(self, spark, table, tmp_path):
        from embedall_spark.search import unseen_words

        written = embedall("export", table, tmp_path / "words.bin", "--format", "fasttext")
        assert written.code == 0, written.log
        peer = load_facebook_vectors(str(tmp_path / "words.bin"))
        rows = tables.read(spark, table).collect()
        counts = [row["count"] for row in sorted(rows, key=lambda row: (-row["count"], row.id))]
        assert [peer.get_vecattr(word, "count") for word in peer.index_to_key] == counts
        assert all(np.allclose(peer[row.id], row.vector, atol=1e-5) for row in rows)
        composed = unseen_words.compose(tables.read(spark, f"{table}_ngrams"), [UNSEEN, NOWHERE])
        assert list(composed) == [UNSEEN]
        assert np.allclose(peer[UNSEEN], composed[UNSEEN], atol=1e-6)
        assert not peer[NOWHERE].any()
        model = load_facebook_model(str(tmp_path / "words.bin"))
        assert (model.sg, model.hs, model.negative, model.wv.min_n, model.wv.max_n) == (1, 0, 5, 3, 5)
        contexts = {row.id: row.context for row in rows}
        assert np.allclose(model.syn1neg, [contexts[word] for word in model.wv.index_to_key], atol=1e-7)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"max_n": 6, "workers": 2}, "max_n above 0, or both .* set train.workers=1"),
        ({"max_n": 2}, "max_n=2 is below min_n=3"),
        ({"max_n": 6, "method": "glove"}, "train.max_n is for method sgns"),
    ],
)
def test_refused_options(train, message):
    with pytest.raises(ConfigError, match=message):
        configs.parse(words.Config, {"input": {"path": "a"}, "output": {"table": "b"}, "train": train})


def test_vertices_have_no_ngrams():
    config = configs.parse(nodes.Config, {"input": {"path": "a"}, "output": {"table": "b"}, "train": {"max_n": 6}})
    with pytest.raises(ConfigError, match=r"train\.max_n=6 is for words"):
        nodes.check(config)


def test_memory_counts_the_buckets():
    corpus = Corpus(100_000, 10**8, 7e7, 1000)
    plain, with_ngrams = (
        preflight.memory_bytes(corpus, words.TrainConfig(max_n=max_n, vector_size=100)) for max_n in (0, 6)
    )
    buckets = (with_ngrams - plain - 4 * 24 * 100_000) / (4 * 112)
    assert 350_000 < buckets < 450_000


def test_formats_of_export(tmp_path):
    unknown = embedall("export", "table", tmp_path / "x", "--format", "onnx")
    assert (unknown.code, "known: word2vec, fasttext" in unknown.log) == (2, True)
    binary = embedall("export", "table", tmp_path / "x", "--format", "fasttext", "--binary")
    assert (binary.code, "leave --binary out" in binary.log) == (2, True)
