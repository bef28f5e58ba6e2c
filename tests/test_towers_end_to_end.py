"""A pair of pretrained towers: texts find pictures as they are, and a space can be fitted on top of them."""

import numpy as np
import pytest
import small_networks
import torch
from cli_runner import answered_alike, embedall
from PIL import Image

from embedall_spark import tables
from embedall_spark.evaluate import retrieval
from embedall_spark.latent import split
from embedall_spark.latent.split import SplitConfig
from embedall_spark.vectors import unit

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_store")]

COLORS = ("red", "blue", "green", "black", "white", "yellow")
THINGS = ("dress", "shoe", "hat", "bag", "belt")


@pytest.fixture(scope="module")
def space(spark, own_store, tmp_path_factory):
    """Pictures with titles, embedded by the image tower, and a latent table of both towers as they are."""
    pytest.importorskip("open_clip")
    folder = tmp_path_factory.mktemp("towers")
    network = f"open_clip:{small_networks.towers(folder / 'network')}"
    random = np.random.default_rng(1)
    rows = ["file,title"]
    for color in COLORS:
        for thing in THINGS:
            picture = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(picture).resize((40, 40)).save(folder / f"{color}-{thing}.png")
            rows.append(f"{color}-{thing}.png,a {color} {thing}")
    (folder / "titles.csv").write_text("\n".join(rows) + "\n")
    inputs = ("input.format=csv", "input.location=file", "input.title=title", "evaluate.map_images=0")
    sets = [part for value in (*inputs, f"backbone.name={network}") for part in ("--set", value)]
    result = embedall("images", folder / "titles.csv", folder / "images", *sets)
    assert result.code == 0, result.log
    result = latent(folder, network, "pair", "fit.as_is=true")
    assert result.code == 0, result.log
    return folder, network, result.summary


def latent(folder, network, name, *values):
    plain = ("evaluate.map_ids=0", "evaluate.heat_pairs=0", "evaluate.examples=0", "split.test=0.4", "split.same=1")
    sets = [part for value in (*plain, f"input.text_tower.name={network}", *values) for part in ("--set", value)]
    return embedall("latent", folder / "images", folder / name, *sets)


def by_hand(folder, network):
    """Return the unit vectors of pictures and titles, as open_clip makes them by itself."""
    import open_clip

    place = f"local-dir:{network.partition(':')[2]}"
    model, transform = open_clip.create_model_from_pretrained(place)
    model.eval()
    names = sorted(path.name for path in folder.glob("*.png"))
    pixels = torch.stack([transform(Image.open(folder / name)) for name in names])
    titles = [f"a {name.removesuffix('.png').replace('-', ' ')}" for name in names]
    with torch.inference_mode():
        left = model.encode_image(pixels, normalize=True).numpy()
        right = model.encode_text(open_clip.get_tokenizer(place)(titles), normalize=True).numpy()
    return names, left, right


def test_both_towers_are_in_one_space_as_they_are(spark, space):
    folder, network, summary = space
    names, left, right = by_hand(folder, network)
    rows = {row.id: row.vector for row in tables.read(spark, f"{folder}/pair").collect()}
    assert len(rows) == 60
    np.testing.assert_allclose([rows[f"images:{name}"] for name in names], left, atol=1e-5)
    np.testing.assert_allclose([rows[f"titles:{name}"] for name in names], right, atol=1e-5)
    parts = split.split(tables.read(spark, f"{folder}/images"), SplitConfig(test=0.4, same=1))
    tested = [names.index(row.id) for row in parts.where("part = 'test'").collect()]
    assert len(tested) > 5
    expected = retrieval.measure(left[tested], right[tested], np.stack([np.arange(len(tested))] * 2, axis=1))
    for name, value in expected.items():
        assert summary["metrics"][name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("table", ["images", "pair"])
def test_words_find_pictures(space, table):
    folder, network, _ = space
    names, left, _ = by_hand(folder, network)
    from embedall_spark.images import backbones

    config = backbones.BackboneConfig(name=network)
    query = unit(backbones.load_text(config).encode(["a pink scarf"]))[0]
    first = [names[row] for row in np.argsort(-(left @ query))[:3]]
    result = answered_alike("search", folder / table, "--text", "a pink scarf", "-n", 3)
    assert result.code == 0, result.log
    places = [result.output.index(name) for name in first]
    assert places == sorted(places)


def test_a_space_fitted_on_top_shows_the_figures_of_the_towers_too(space):
    folder, network, summary = space
    result = latent(folder, network, "fitted", "fit.k=4")
    assert result.code == 0, result.log
    figures = result.summary["metrics"]
    for name in ("left_to_right/recall_5", "right_to_left/mrr", "left_to_right/candidates"):
        assert figures[f"towers/{name}"] == pytest.approx(summary["metrics"][name], abs=1e-6)
    assert figures["left_to_right/mrr"] != figures["towers/left_to_right/mrr"]
    suggested = answered_alike("suggest", folder / "fitted", "--id", "red-hat.png", "-n", 2)
    assert suggested.output.count("a ") >= 2


def test_vectors_of_another_network_are_no_pair(space, tmp_path):
    folder, _, _ = space
    other = f"open_clip:{small_networks.towers(tmp_path / 'other', seed=2)}"
    result = latent(folder, other, "no-pair", "fit.as_is=true")
    assert result.code == 2
    assert "were not made by the image tower of" in result.log
    result = latent(folder, "resnet18", "no-pair")
    assert result.code == 2
    assert "resnet18 has no text side" in result.log
