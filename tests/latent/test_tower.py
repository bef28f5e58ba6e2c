"""A text tower as the right side, without Spark: the task's function, the stored model, and a search by words."""

import json

import numpy as np
import pyarrow as pa
import pytest
import small_networks
from cli_runner import embedall
from deltalake import CommitProperties, write_deltalake

from embedall_spark import config as configs
from embedall_spark.errors import ConfigError
from embedall_spark.images import backbones
from embedall_spark.images.backbones import BackboneConfig
from embedall_spark.kinds import images, latent
from embedall_spark.latent import latent_model
from embedall_spark.latent.latent_model import LatentModel, Tower
from embedall_spark.latent.projection import Side
from embedall_spark.latent.text import tower
from embedall_spark.vectors import to_column, to_matrix, unit

TEXTS = ["a red circle", "two blue squares", "", "a red circle"]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    pytest.importorskip("open_clip")
    return BackboneConfig(name=f"open_clip:{small_networks.towers(tmp_path_factory.mktemp('tower') / 'network')}")


def test_a_task_encodes_texts(network):
    batch = pa.record_batch({"id": [str(row) for row in range(40)], "text": TEXTS * 10})
    [first, second] = tower._encoder(network)([batch])
    assert (len(first), len(second)) == (32, 8)
    expected = backbones.load_text(network).encode(TEXTS)
    np.testing.assert_allclose(to_matrix(first["vector"])[:4], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(first["norm"][:4], np.linalg.norm(expected, axis=1), rtol=1e-4)
    # Each text has its vector, whatever stands beside it.
    np.testing.assert_allclose(to_matrix(second["vector"])[3], expected[0], rtol=1e-4, atol=1e-6)


def test_the_model_keeps_its_tower(network):
    side = Side(np.eye(8, dtype=np.float32), np.zeros(8))
    stored = LatentModel(side, side, "images", "titles", None, Tower(network, True))
    read = latent_model.from_bytes(latent_model.to_bytes(stored))
    assert read.tower == stored.tower
    assert (read.takes_text, read.text) == (True, None)
    assert "right_vector" in latent_model.servable(stored, None).example


def test_words_find_pictures_of_a_network_with_a_text_side(network, tmp_path):
    vectors = np.random.default_rng(4).normal(size=(30, 8)).astype(np.float32)
    (tmp_path / "run").mkdir()
    run = configs.parse(
        images.Config,
        {
            "input": {"path": str(tmp_path)},
            "output": {"table": str(tmp_path / "pictures")},
            "backbone": network.model_dump(),
        },
    )
    (tmp_path / "run" / "config.yaml").write_text(configs.dump(run))
    ids = [f"{row:02}.png" for row in range(30)]
    rows = {"id": ids, "vector": to_column(vectors), "norm": np.ones(30), "count": pa.nulls(30, pa.int64())}
    rows |= {"kind": ["images"] * 30, "run_id": ["r"] * 30}
    commit = json.dumps({"run_id": "r", "kind": "images", "run_folder": str(tmp_path / "run")})
    write_deltalake(
        str(tmp_path / "pictures"),
        pa.table(rows),
        commit_properties=CommitProperties(custom_metadata={"userMetadata": commit}),
    )
    query = unit(backbones.load_text(network).encode(["a red circle"]))[0]
    first = [ids[row] for row in np.argsort(-(unit(vectors) @ query))[:3]]
    result = embedall("search", tmp_path / "pictures", "--text", "a red circle", "-n", 3)
    assert result.code == 0, result.log
    assert [line.split()[1] for line in result.output.splitlines()[1:4]] == first


def parsed(tmp_path, **sections):
    (tmp_path / "titles.csv").write_text("id,title\na,b\n")
    source = {"path": "images", "items": str(tmp_path / "titles.csv"), **sections.pop("input", {})}
    return configs.parse(latent.Config, {"input": source, "output": {"table": "out"}, **sections})


def test_options_that_contradict_a_tower(tmp_path):
    name = {"name": "open_clip:ViT-B-32"}
    latent.check(parsed(tmp_path, input={"text_tower": name}, fit={"as_is": True}))
    with pytest.raises(ConfigError, match="resnet18 has no text side"):
        latent.check(parsed(tmp_path, input={"text_tower": {"name": "resnet18"}}))
    with pytest.raises(ConfigError, match=r"as_is keeps the vectors of a pair of towers: set input\.text_tower"):
        latent.check(parsed(tmp_path, fit={"as_is": True}))
    with pytest.raises(ConfigError, match=r"leave input\.words"):
        latent.check(parsed(tmp_path, input={"text_tower": name, "words": "words"}))
