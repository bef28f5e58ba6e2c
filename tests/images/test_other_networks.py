"""Networks of timm, open_clip and onnxruntime, against what these packages do by themselves."""

import sys

import numpy as np
import pytest
import small_networks
import torch
from PIL import Image
from torch import nn

from embedall_spark.errors import ConfigError
from embedall_spark.images import backbones
from embedall_spark.images.backbones import BackboneConfig, inference
from embedall_spark.images.featurize import FeaturizeConfig, TaskOptions, task
from embedall_spark.sources.image_limits import Limits

MEAN_STD = {"mean": "[0.5, 0.4, 0.3]", "std": "[0.2, 0.3, 0.4]"}


@pytest.fixture
def picture():
    noise = np.random.default_rng(1).integers(0, 256, (20, 15, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((60, 80), Image.Resampling.BICUBIC)


def load(name, **options):
    return backbones.load(BackboneConfig.model_validate({"name": name, **options}))


def features(backbone, picture):
    return inference.prepare(backbone, device="cpu")(torch.stack([backbone.transform(picture)] * 3))


class ChannelsLast(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x.permute(0, 3, 1, 2))


def test_an_onnx_file_is_the_network_that_it_was_exported_from(tmp_path, picture):
    whole, x = small_networks.classifier().eval(), torch.randn(2, 3, 32, 32)
    network = whole[:-1]
    file = small_networks.onnx_file(tmp_path / "a.onnx", network, x, metadata={**MEAN_STD, "crop_pct": "0.5"})
    actual = load(f"onnx:{file}")
    assert actual.size == 5
    pixels = actual.transform(picture)
    # By hand: the shorter side to 32 / 0.5, the middle 32.
    small = picture.resize((64, 85), Image.Resampling.BILINEAR).crop((16, 26, 48, 58))
    values = (np.asarray(small, np.float32) / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    np.testing.assert_allclose(pixels.permute(1, 2, 0), values, atol=1e-5)
    with torch.inference_mode():
        expected = network(pixels[None]).expand(3, 5)
    torch.testing.assert_close(features(actual, picture), expected, rtol=1e-4, atol=1e-5)
    # One picture at a time, and the file of Tensorflow's layout.
    for name, module, sample, free in (
        ("one", network, x[:1], False), ("last", ChannelsLast(network), x.permute(0, 2, 3, 1), True)
    ):  # fmt: skip
        small_networks.onnx_file(tmp_path / name, module, sample, metadata=MEAN_STD, free_batch=free)
        other = load(f"onnx:{tmp_path / name}", transform={"crop": 0.5})
        torch.testing.assert_close(features(other, picture), expected, rtol=1e-4, atol=1e-5)
    # Its fingerprint is of the file and the transform, wherever the file lies.
    moved = tmp_path / "moved.onnx"
    moved.write_bytes(file.read_bytes())
    assert load(f"onnx:{moved}").fingerprint == actual.fingerprint
    assert load(f"onnx:{moved}", transform={"crop": 1}).fingerprint != actual.fingerprint


def test_any_tensor_of_an_onnx_file_can_be_the_vector(tmp_path, picture):
    whole = small_networks.classifier().eval()
    file = small_networks.onnx_file(tmp_path / "classes.onnx", whole, torch.randn(2, 3, 32, 32), metadata=MEAN_STD)
    assert load(f"onnx:{file}").size == 3
    with pytest.raises(ConfigError, match=r"has no tensor nothing; its last ones: .*, (\S+), features") as error:
        load(f"onnx:{file}", output="nothing")
    before_last = str(error.value).split(", ")[-2]
    actual = load(f"onnx:{file}", output=before_last)
    with torch.inference_mode():
        expected = whole[:-1](actual.transform(picture)[None]).expand(3, 5)
    torch.testing.assert_close(features(actual, picture), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="torch does not run this network"):
        inference.prepare(actual, device="cpu", dtype="bfloat16")


def test_what_is_wrong_with_an_onnx_file_is_said(tmp_path, monkeypatch):
    network, x = small_networks.classifier()[:-1], torch.randn(2, 3, 32, 32)
    file = small_networks.onnx_file(tmp_path / "plain.onnx", network, x)
    with pytest.raises(ConfigError, match=r"does not say how pictures are normalized .*set backbone\.transform\.mean"):
        load(f"onnx:{file}")
    given = {"mean": [0, 0, 0], "std": [1, 1, 1]}
    assert load(f"onnx:{file}", transform=given).size == 5
    with pytest.raises(ConfigError, match="takes pictures of 32 pixels, not of 64"):
        load(f"onnx:{file}", transform={**given, "size": 64})
    with pytest.raises(ConfigError, match="holds its weights"):
        load(f"onnx:{file}", weights="a.pt")
    wrong = small_networks.onnx_file(tmp_path / "wrong.onnx", network, x, metadata={"mean": "gray"})
    with pytest.raises(ConfigError, match=r"its metadata mean is 'gray', need JSON"):
        load(f"onnx:{wrong}")
    flat = small_networks.onnx_file(tmp_path / "flat.onnx", nn.Linear(4, 2), torch.randn(2, 4))
    with pytest.raises(ConfigError, match=r"takes input tensor\(float\) \['n', 4\]; need one tensor of floats"):
        load(f"onnx:{flat}")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(ConfigError, match="cannot be run by onnxruntime"):
        load(f"onnx:{tmp_path}/text.onnx")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(f"onnx:{tmp_path}/none.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'embedall_spark\[onnx\]' on every host"):
        load(f"onnx:{file}")


def test_timm_has_the_features_and_the_transform_of_timm(tmp_path, picture):
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    torch.manual_seed(2)
    whole = timm.create_model("test_resnet.r160_in1k", num_classes=7).eval()
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    torch.save(whole.state_dict(), tmp_path / "model.pt")
    actual = load("timm:test_resnet.r160_in1k", weights=str(tmp_path / "model.safetensors"))
    expected_transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=whole))
    x = expected_transform(picture)
    torch.testing.assert_close(actual.transform(picture), x, rtol=0, atol=0)
    with torch.inference_mode():
        expected = whole.forward_head(whole.forward_features(x[None]), pre_logits=True).expand(3, -1)
    torch.testing.assert_close(features(actual, picture), expected, rtol=1e-4, atol=1e-5)
    assert not actual.module.training
    same = load("timm:test_resnet.r160_in1k", weights=str(tmp_path / "model.pt"))
    assert same.fingerprint == actual.fingerprint
    smaller = load("timm:test_resnet.r160_in1k", weights=str(tmp_path / "model.pt"), transform={"size": 64, "crop": 1})
    assert smaller.transform(picture).shape == (3, 64, 64)
    with pytest.raises(ConfigError, match=r"did you mean .*resnet18"):
        load("timm:resnet_18")
    with pytest.raises(ConfigError, match="needs a file, since nothing is downloaded"):
        load("timm:resnet18")
    with pytest.raises(ConfigError, match="of another network"):
        load("timm:test_vit", weights=str(tmp_path / "model.pt"))
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(ConfigError, match="not a plain state dict"):
        load("timm:test_vit", weights=str(tmp_path / "text.safetensors"))


def test_towers_are_those_of_open_clip(tmp_path, picture):
    open_clip = pytest.importorskip("open_clip")
    folder = small_networks.towers(tmp_path / "towers")
    name = f"open_clip:{folder}"
    actual, text = load(name), backbones.load_text(BackboneConfig(name=name))
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    model.eval()
    torch.testing.assert_close(actual.transform(picture), transform(picture), rtol=0, atol=0)
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["a red circle", "two"])
    with torch.inference_mode():
        expected = model.encode_image(transform(picture)[None]).expand(3, -1)
        torch.testing.assert_close(features(actual, picture), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(text.encode(["a red circle", "two"]), model.encode_text(tokens), rtol=1e-5)
    assert (actual.size, text.size, text.fingerprint) == (8, 8, actual.fingerprint)
    assert load(f"open_clip:{small_networks.towers(tmp_path / 'other', seed=2)}").fingerprint != actual.fingerprint
    # Without the file of weights open_clip would draw random ones.
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(ConfigError, match="cannot be loaded: Required pretrained weights"):
        load(name)
    with pytest.raises(ConfigError, match=r"has no file open_clip_config\.json"):
        load(f"open_clip:{tmp_path}")
    with pytest.raises(ConfigError, match="did you mean ViT-B-32"):
        load("open_clip:ViT-B32")
    for weights in (None, "laion2b_s34b_b79k"):
        with pytest.raises(ConfigError, match="nothing is downloaded in a run"):
            load("open_clip:ViT-B-32", weights=weights)


def test_siglip_has_a_tokenizer_in_its_folder(tmp_path, picture):
    open_clip = pytest.importorskip("open_clip")
    folder = small_networks.towers(tmp_path / "siglip", small_networks.SIGLIP)
    config = BackboneConfig(name=f"open_clip:{folder}")
    assert load(config.name).size == 16
    with pytest.raises(ConfigError, match=r"the tokenizer of open_clip:.* is not on this host"):
        backbones.load_text(config)
    small_networks.word_tokenizer(folder, ["red", "circle"])
    text = backbones.load_text(config)
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    with torch.inference_mode():
        expected = model.encode_text(torch.tensor([[2, 3, 0, 0, 0, 0, 0, 0]]))
    np.testing.assert_allclose(text.encode(["Red, circle!"]), expected, rtol=1e-5)


def test_a_task_runs_an_onnx_file(tmp_path):
    import pyarrow as pa

    network, x = small_networks.classifier()[:-1], torch.randn(2, 3, 32, 32)
    file = small_networks.onnx_file(tmp_path / "a.onnx", network, x, metadata=MEAN_STD)
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    config = BackboneConfig(name=f"onnx:{file}")
    run = task(TaskOptions(config, FeaturizeConfig(), Limits(), backbones.load(config).fingerprint, 1))
    names = ["id", "content", "path", "origin", "known"]
    rows = [dict.fromkeys(names) | {"id": f"p{i}", "path": str(tmp_path / "red.png")} for i in range(11)]
    schema = pa.schema([(name, pa.binary() if name == "content" else pa.string()) for name in names])
    result = pa.Table.from_batches(run([pa.RecordBatch.from_pylist(rows, schema=schema)]))
    assert result["problem"].null_count == 11
    vectors = np.stack(result["vector"].to_numpy())
    np.testing.assert_allclose(vectors, np.broadcast_to(vectors[0], (11, 5)), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)


def test_options_that_do_not_belong_to_a_network_are_refused():
    with pytest.raises(ConfigError, match="has its own transform"):
        load("resnet18", transform={"size": 64})
    with pytest.raises(ConfigError, match="names a tensor of an ONNX file"):
        load("timm:resnet18", output="x")
    with pytest.raises(ConfigError, match="names no network"):
        load("timm:")
