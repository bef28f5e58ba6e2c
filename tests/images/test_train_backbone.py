"""Networks are trained on drawn digits, go on where they were left, and are read back as they were."""

import io
import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from cli_runner import embedall
from fake_run import FakeRun
from PIL import Image, ImageDraw, ImageFont
from processes import call_here
from pyarrow import parquet

from embedall_spark import schemas, torch_processes
from embedall_spark.errors import BadData, ConfigError, TrainingDiverged
from embedall_spark.images import backbones, pixel_shards, train_backbone, train_loop, trainable_networks
from embedall_spark.images.backbones import BackboneConfig
from embedall_spark.images.train_config import TrainConfig
from embedall_spark.images.vision_library import torchvision
from embedall_spark.sources.image_limits import Limits

TINY = {"side": 16, "grey": True, "vector_size": 8, "batch_size": 16, "epochs": 6, "threads": 1, "held_out": 0.2}
CONFIG = TrainConfig(**TINY)


def drawn(label, random):
    """A figure somewhere on white, of any gray."""
    picture = Image.new("RGB", (20, 20), "white")
    at, ink = random.integers(1, 6, 2), int(random.integers(0, 90))
    ImageDraw.Draw(picture).text(tuple(at.tolist()), label, fill=(ink, ink, ink), font=ImageFont.load_default(13))
    return picture


def png(picture):
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def digits():
    """40 pictures of each of three digits, as (id, PNG, label)."""
    random = np.random.default_rng(7)
    return [(f"{label}/{at}", png(drawn(label, random)), label) for label in "038" for at in range(40)]


@pytest.fixture(scope="module")
def stage(tmp_path_factory, digits):
    return staged(tmp_path_factory.mktemp("pictures"), digits, 16, True)


def staged(folder, digits, side, gray):
    """Write what the tasks of a run write, without Spark; return the folder."""
    ids, contents, labels = zip(*digits, strict=True)
    batch = pa.record_batch(
        {
            "key": pa.array([hash_of(name) for name in ids]),
            "held_out": pa.array([at % 5 == 0 for at in range(len(ids))]),
            "label": list(labels),
            "content": pa.array(contents, pa.binary()),
            "path": pa.nulls(len(ids), pa.string()),
            "origin": list(ids),
            "problem": pa.nulls(len(ids), pa.string()),
        }
    )
    draw = pixel_shards.converter({"0": 0, "3": 1, "8": 2}, side, gray, Limits())
    folder.mkdir(exist_ok=True)
    parquet.write_table(pa.Table.from_batches(list(draw([batch]))), folder / "part-0.parquet")
    return str(folder)


def load(path):
    return backbones.load(BackboneConfig(name="trained", weights=path))


def hash_of(name):
    return int.from_bytes(name.encode().ljust(8)[:8], "little") % (1 << 62)


@pytest.fixture(scope="module")
def header():
    return trainable_networks.build_header("small", 16, True, 8, ["0", "3", "8"])


def fitted(stage, folder, header, config=CONFIG):
    return train_loop.fit(stage, str(folder), config.model_dump_json(), header.model_dump_json())


@pytest.fixture(scope="module")
def whole(stage, header, tmp_path_factory):
    """A training that nothing interrupts: its folder and its figures."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, fitted(stage, folder, header)


def test_digits_are_learned(whole):
    _, history = whole
    assert len(history) == 6 and history[-1]["loss"] < history[0]["loss"] / 2
    assert history[-1]["accuracy"] > 0.9


def test_the_file_is_a_plain_state_dict_and_gives_the_vectors_of_the_network(whole, header, digits):
    path = f"{whole[0]}/{train_loop.RESULT}"
    state = torch.load(path, weights_only=True)
    actual = load(path)
    assert json.loads(bytes(state[trainable_networks.HEADER].tolist()))["classes"] == ["0", "3", "8"]
    assert actual.size == 8 and not actual.module.training and len(actual.fingerprint) == 16
    picture = Image.open(io.BytesIO(digits[50][1])).convert("RGB")
    # Middle, gray and scale by other means.
    gray = np.asarray(picture.convert("L").resize((16, 16), Image.Resampling.BILINEAR), np.float32)
    plane = torch.from_numpy((gray / 255 - 0.5) / 0.25)
    torch.testing.assert_close(actual.transform(picture), plane.expand(3, 16, 16))
    bare = trainable_networks.Small(16, 8, True).eval()
    bare.load_state_dict({name: value for name, value in state.items() if name != trainable_networks.HEADER})
    torch.testing.assert_close(actual.module(plane.expand(1, 3, 16, 16)), bare(plane.expand(1, 3, 16, 16)))


def test_vectors_of_one_digit_are_near_each_other(whole, digits):
    actual = load(f"{whole[0]}/{train_loop.RESULT}")
    batch = torch.stack([actual.transform(Image.open(io.BytesIO(content)).convert("RGB")) for _, content, _ in digits])
    units = torch.nn.functional.normalize(actual.module(batch)).numpy()
    cosines = units @ units.T - 2 * np.eye(len(units))
    labels = np.array([label for _, _, label in digits])
    assert (labels[cosines.argmax(axis=1)] == labels).mean() > 0.8


def test_a_training_that_was_stopped_goes_on_to_the_same_result(stage, header, whole, tmp_path, monkeypatch):
    original = train_loop._Trainer._save_checkpoint

    def stop(self):
        original(self)
        if len(self.history) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_loop._Trainer, "_save_checkpoint", stop)
        fitted(stage, tmp_path, header)
    assert not (tmp_path / train_loop.RESULT).exists()
    resumed = fitted(stage, tmp_path, header)
    assert [epoch["loss"] for epoch in resumed] == [epoch["loss"] for epoch in whole[1]]
    assert (tmp_path / train_loop.RESULT).read_bytes() == (whole[0] / train_loop.RESULT).read_bytes()
    assert len(list(tmp_path.glob("epoch-*"))) == 2


def test_a_loss_that_is_not_finite_is_not_kept(stage, header, tmp_path):
    wild = TrainConfig(**TINY | {"loss": "softmax", "learning_rate": 1e30, "schedule": "cosine"})
    with pytest.raises(TrainingDiverged, match="learning_rate"):
        fitted(stage, tmp_path, header, wild)
    assert [path.name for path in tmp_path.iterdir()] == [torch_processes.FAILURE]


def test_pictures_move_by_what_is_allowed():
    pictures = np.arange(2 * 25, dtype=np.uint8).reshape(2, 1, 5, 5)
    actual = train_loop.augment(np.repeat(pictures, 200, axis=0), 1, False, np.random.default_rng(0))
    possible = {
        np.pad(pictures[0, 0], 1, mode="edge")[y : y + 5, x : x + 5].tobytes() for y in range(3) for x in range(3)
    }
    assert {row.tobytes() for row in actual[:200, 0]} == possible
    flipped = train_loop.augment(np.repeat(pictures, 50, axis=0), 0, True, np.random.default_rng(0))
    assert {row.tobytes() for row in flipped[:50, 0]} == {pictures[0, 0].tobytes(), pictures[0, 0, :, ::-1].tobytes()}


def test_pixels_are_the_middle():
    picture = Image.new("RGB", (60, 20), "white")
    picture.paste((10, 20, 30), (20, 0, 40, 20))
    actual = pixel_shards.pixels(picture, 10, False)
    assert actual.shape == (3, 10, 10) and (actual[:, :, 1:-1] == np.array([10, 20, 30])[:, None, None]).all()
    assert pixel_shards.pixels(picture.rotate(90, expand=True), 20, True).shape == (1, 20, 20)


def test_weights_of_others_are_where_a_training_begins(tmp_path, digits):
    torch.manual_seed(4)
    network = torchvision.models.squeezenet1_1()
    torch.save(network.state_dict(), tmp_path / "given.pt")
    small = {"side": 32, "grey": False, "epochs": 1, "architecture": "squeezenet1_1"}
    config = TrainConfig(**TINY | small | {"start": f"{tmp_path}/given.pt", "learning_rate": 1e-12, "loss": "softmax"})
    header = trainable_networks.build_header("squeezenet1_1", 32, False, 0, ["0", "3", "8"])
    place = staged(tmp_path / "pictures", digits[::8], 32, False)
    fitted(place, tmp_path / "run", header, config)
    actual = backbones.load(BackboneConfig(name="trained", weights=f"{tmp_path}/run/{train_loop.RESULT}"))
    assert actual.size == 512
    for name, value in actual.module.state_dict().items():
        torch.testing.assert_close(value, network.state_dict()[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "squeezenet1_1"])
def test_other_networks_are_kept_too(tmp_path, name):
    header = trainable_networks.build_header(name, 32, False, 64, ["a", "b"])
    torch.manual_seed(0)
    module = trainable_networks.build(name, 32, 64, False)[0].eval()
    path = tmp_path / "backbone.pt"
    path.write_bytes(trainable_networks.save(module, header))
    actual = load(str(path))
    x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(actual.module(x), module(x))
    assert actual.size == header.size == module(x).shape[1]


def test_files_of_other_networks_are_refused(tmp_path, whole):
    torch.save(trainable_networks.Small(16, 8, True).state_dict(), tmp_path / "bare.pt")
    with pytest.raises(ConfigError, match="not written by 'embedall train-backbone'"):
        load(str(tmp_path / "bare.pt"))
    state = torch.load(f"{whole[0]}/{train_loop.RESULT}", weights_only=True)
    torch.save({name: value for name, value in state.items() if name != "embed.0.weight"}, tmp_path / "cut.pt")
    with pytest.raises(ConfigError, match="damaged"):
        load(str(tmp_path / "cut.pt"))
    with pytest.raises(ConfigError, match="16 pixels are too few for squeezenet"):
        trainable_networks.build_header("squeezenet1_1", 16, False, 8, ["a", "b"])
    with pytest.raises(ConfigError, match="no such network"):
        trainable_networks.build("resnet1818", 32, 64, False)


@pytest.fixture(scope="module")
def pictures(spark, digits):
    rows = [(name, bytearray(content), label, name, None) for name, content, label in digits]
    rows += [
        ("broken", bytearray(b"no picture"), "0", "broken", None),
        ("odd", bytearray(digits[0][1]), None, "", None),
    ]
    rows += [(None, None, None, "gone", "no id: gone")]
    table = spark.createDataFrame(rows, "id string, content binary, label string, origin string, problem string")
    return schemas.conform(table, schemas.IMAGES)


def test_two_processes_train_through_spark(pictures, tmp_path):
    run = FakeRun(pictures.sparkSession, tmp_path, max_reject_share=0.1)
    actual = train_backbone.train(run, pictures, TrainConfig(**TINY | {"processes": 2}), Limits())
    assert actual.classes == 3 and actual.figures["train/accuracy"] > 0.8
    assert run.artifacts[train_loop.RESULT] == actual.content
    assert [step for name, _, step in run.metrics if name == "train/loss"] == [1, 2, 3, 4, 5, 6]
    reasons = {row["reason"] for rejects in run.rejects for row in rejects.collect()}
    assert reasons == {"not an image", "no id"}
    again = train_backbone.train(run, pictures, TrainConfig(**TINY | {"processes": 2}), Limits())
    assert again.content == actual.content and run.made == ["classes", "pictures"]


def test_whatever_the_partitioning_the_network_is_the_same(pictures, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(torch_processes, "run", call_here)
    for part, table in enumerate((pictures.coalesce(1), pictures.repartition(5))):
        run = FakeRun(table.sparkSession, tmp_path / f"{part}", max_reject_share=0.1)
        made.append(train_backbone.train(run, table, TrainConfig(**TINY | {"epochs": 1}), Limits()).content)
    assert made[0] == made[1]


def test_what_the_processes_say_is_told(pictures, tmp_path):
    run = FakeRun(pictures.sparkSession, tmp_path, max_reject_share=0.1)
    absent = TrainConfig(**TINY | {"architecture": "squeezenet1_1", "start": "absent.pt", "side": 32})
    with pytest.raises(ConfigError, match=r"absent\.pt"):
        train_backbone.train(run, pictures, absent, Limits())
    with pytest.raises(BadData, match="1 different labels"):
        train_backbone.train(FakeRun(run.spark, tmp_path / "one"), pictures.where("label = '0'"), CONFIG, Limits())


def test_the_command_trains_and_does_not_repeat_itself(spark, digits, tmp_path, monkeypatch, own_store):
    monkeypatch.setattr(torch_processes, "run", call_here)
    (tmp_path / "digits").mkdir()
    for name, content, _ in digits:
        (tmp_path / "digits" / f"{name.replace('/', '-')}.png").write_bytes(content)
    lines = [f"{name.replace('/', '-')}.png,{label}" for name, _, label in digits]
    (tmp_path / "digits" / "labels.csv").write_text("file,digit\n" + "\n".join(lines) + "\n")
    where = {"path": tmp_path / "digits" / "labels.csv", "format": "csv", "location": "file", "label": "digit"}
    options = [f"input.{name}={value}" for name, value in where.items()]
    options += [f"train.{name}={value}" for name, value in TINY.items()]
    options += [f"output.file={tmp_path}/made/digits.pt"]
    arguments = ["train-backbone", "--run-id", "first", *(part for option in options for part in ("--set", option))]
    assert embedall(*arguments, "--dry-run", "--set", "train.architecture=resnet1818").code == 2
    checked = embedall(*arguments, "--dry-run").summary
    assert (checked["pictures"], checked["classes"]) == (len(digits), 3)
    assert checked["pixel_bytes"] == len(digits) * TINY["side"] ** 2
    assert not (tmp_path / "made").exists()
    result = embedall(*arguments)
    assert result.code == 0, result.log
    actual = json.loads(result.output.splitlines()[-1])
    assert actual["classes"] == 3 and actual["metrics"]["train/accuracy"] > 0.8 and actual["rejected"] == 0
    assert load(f"{tmp_path}/made/digits.pt").size == 8
    assert json.loads(embedall(*arguments).output.splitlines()[-1])["repeated"]
    assert embedall(*arguments, "--set", "train.seed=2").code == 2
