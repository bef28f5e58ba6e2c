"""A latent space whose words are published in a rotated space, and which is published itself: nothing else changes."""

import json

import mlflow
import numpy as np
import pandas as pd
import pytest
from cli_runner import answered_alike, embedall
from mlflow import MlflowClient
from scipy.stats import ortho_group
from test_latent_end_to_end import COLORS, SIZE, THINGS, configured, input_folder  # noqa: F401
from vector_tables import bits, table

from embedall_spark import publication, tables
from embedall_spark.errors import ConfigError
from embedall_spark.publish.gates import Publication
from embedall_spark.schemas import VECTORS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_store")]

NAMES = [*COLORS, *THINGS, "crimson", *(f"word{i}" for i in range(2 * SIZE))]


def write_words(spark, folder, version):
    """Write the candidate of the words as a run would: turned, with a little noise."""
    random = np.random.default_rng(4)
    vectors = random.standard_normal((len(NAMES), SIZE))
    vectors[NAMES.index("crimson")] = vectors[0] + 0.1 * random.standard_normal(SIZE)
    random = np.random.default_rng(version)
    vectors = (vectors + 0.02 * random.standard_normal(vectors.shape)) @ ortho_group.rvs(SIZE, random_state=version)
    tables.write(spark, table(spark, NAMES, vectors), f"{folder}/words", VECTORS, mode="overwrite",
                 run_id=f"seed-{version}", vector_size=SIZE, metadata={"kind": "words"})  # fmt: skip


@pytest.fixture(scope="module")
def spaces(spark, input_folder, tmp_path_factory):  # noqa: F811
    """Return the tables of the fitted and of the published space; the words were rotated for their publication."""
    folder = tmp_path_factory.mktemp("published_latent")
    for version in (0, 1):
        write_words(spark, folder, version)
        published = publication.publish(spark, f"{folder}/words", f"{folder}/published_words", Publication())
    assert published.rotation is not None
    result = embedall("latent", "--config", configured(input_folder, folder, input={"words": f"{folder}/words"}))
    assert result.code == 0, result.log
    options = ("--set", f"stands_on={json.dumps([f'{folder}/published_words'])}", "--set", "registered_model=space")
    published = embedall("publish", f"{folder}/out", "--to", f"{folder}/space", *options)
    assert published.code == 0, published.log
    assert "its Q is composed with the rotation of" in published.log
    # The words of the candidate are those of another night now.
    write_words(spark, folder, 2)
    return f"{folder}/out", f"{folder}/space", f"{folder}/published_words", result.summary


def answers(name, *question):
    result = answered_alike(question[0], name, *question[1:])
    assert result.code == 0, result.log
    return result.output


def test_answers_are_those_before_the_words_were_rotated(spark, spaces):
    out, space, published_words, summary = spaces
    assert bits(tables.read(spark, space)) == bits(tables.read(spark, out))
    rows = {row.id: row for row in tables.read(spark, space).collect()}
    # The space that was fitted goes on with the words of its night.
    question = ("search", "--text", "crimson coat", "-n", 5)
    assert answers(space, *question) == answers(out, *question)
    # As the run itself has mapped it, by the words that it was fitted to.
    for word in ("red", "coat"):
        (best, *_) = answers(
            space, "search", "--text", word, "-n", 1, "--where", "vectors.kind = 'words'"
        ).splitlines()[1:]
        assert f"words:{word}" in best and "1.000" in best
    assert "red" in answers(space, "search", "--text", "crimson", "-n", 1, "--where", "vectors.kind = 'words'")
    question = ("suggest", "--id", "images:011.png", "-n", 3)
    assert answers(space, *question) == answers(out, *question)
    vectors = {row.id: row.vector for row in tables.read(spark, published_words).collect()}
    client = MlflowClient(tracking_uri=summary["mlflow_uri"])
    version = client.get_model_version_by_alias("space", "published")
    model = mlflow.pyfunc.load_model(version.source)
    frame = pd.DataFrame({"text": ["red"], "word_vectors": [{"red": vectors["red"]}]})
    np.testing.assert_allclose(model.predict(frame)[0], rows["words:red"].vector, atol=1e-5)
    assert rows["words:red"].model_uri.removeprefix("models:/") in version.source


def test_the_next_version_is_rotated_onto_the_one_before(spark, spaces):
    out, space, *_ = spaces
    rows = tables.read(spark, out)
    size = len(rows.first().vector)
    turn = ortho_group.rvs(size, random_state=5)
    before = rows.toPandas()
    vectors = np.stack(before["vector"]) @ turn
    name = f"{space}-before"
    tables.write(spark, table(spark, before["id"], vectors), name, VECTORS, mode="overwrite", run_id="before",
                 vector_size=size)  # fmt: skip
    result = publication.publish(
        spark, out, name, Publication(stands_on=[f"{space.rpartition('/')[0]}/published_words"])
    )
    assert result.rotation.fit == pytest.approx(1, abs=1e-5)
    after = {row.id: row.vector for row in tables.read(spark, name).collect()}
    np.testing.assert_allclose([after[key] for key in before["id"]], vectors, atol=1e-5)
    for question in (("search", "--text", "black coat", "-n", 3), ("suggest", "--id", "images:011.png", "-n", 3)):
        assert answers(name, *question) == answers(space, *question)


def test_what_is_stale_is_refused(spark, spaces):
    out, space, published_words, _ = spaces
    on = Publication(stands_on=[published_words])
    publication.publish(spark, f"{published_words.rpartition('/')[0]}/words", published_words, Publication())
    with pytest.raises(
        ConfigError, match=r"was fitted to version 1 of .*words, and .* has its version 2: fit the latent"
    ):
        publication.publish(spark, out, f"{space}-new", on)
    with pytest.raises(ConfigError, match=r"is published from .*out, and .*out was fitted to"):
        publication.publish(spark, out, f"{space}-new", Publication(stands_on=[space]))
    with pytest.raises(ConfigError, match="stands_on is for latent spaces"):
        publication.check(on, "words", "published", "words")
