"""Networks that train-backbone can train, the transform of their pictures, and the file that stores one."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import torch
from pydantic import Field, ValidationError
from torch import nn

from embedall_spark.config import Section
from embedall_spark.errors import ConfigError
from embedall_spark.images import pixel_shards
from embedall_spark.images.backbones import efficientnet_lite0, torchvision_models, weights
from embedall_spark.images.vision_library import torchvision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

SMALL = "small"
HEADER = "embedall.header"
_LAST_SIDE, _WIDTHS = 4, (32, 64, 128, 256)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Header(Section):
    """The description of a trained network, stored in its file beside the tensors."""

    architecture: str = Field(description="small, efficientnet_lite0 or a classification network of torchvision")
    side: int = Field(ge=8, description="height and width of a picture, in pixels")
    grey: bool = Field(description="whether pictures are converted to grayscale")
    size: int = Field(ge=1, description="dimension of its vectors")
    mean: tuple[float, float, float] = Field(description="subtracted from each channel, of 0 to 1")
    deviation: tuple[float, float, float] = Field(description="each channel is divided by it")
    classes: tuple[str, ...] = Field(description="labels that it was trained on")


class Small(nn.Module):
    """A small convolutional network: 3 x 3 filters, batch normalization and pooling until a side is under 5 pixels.

    Its vectors are batch-normalized too, so that their directions spread (Luo et al. 2019, "Bag of Tricks and
    A Strong Baseline for Deep Person Re-identification", section 3.4).
    """

    def __init__(self, side: int, size: int, grey: bool) -> None:
        super().__init__()
        self.channels = inner = 1 if grey else 3
        layers: list[nn.Module] = []
        for block in range(16):
            if side <= _LAST_SIDE:
                break
            width = _WIDTHS[min(block, len(_WIDTHS) - 1)]
            convolution = nn.Conv2d(inner, width, 3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
            inner, side = width, side // 2
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.embed = nn.Sequential(nn.Linear(inner * side * side, size, bias=False), nn.BatchNorm1d(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return vectors [n, size] of pictures [n, 3, side, side]; of gray pictures the first channel is read."""
        vectors: torch.Tensor = self.embed(self.features(x[:, : self.channels]))
        return vectors


class Transform:
    """Turns a picture into the network's input."""

    def __init__(self, header: Header) -> None:
        self._header = header

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        """Return float32 [3, side, side]."""
        pixels = torch.from_numpy(pixel_shards.pixels(picture, self._header.side, self._header.grey))
        return normalize(pixels[None], self._header)[0]

    def __repr__(self) -> str:
        return f"pixels {self._header.model_dump_json(include={'side', 'grey', 'mean', 'deviation'})}"


def normalize(batch: torch.Tensor, header: Header) -> torch.Tensor:
    """Return pixels, uint8 [n, 1 or 3, h, w], as the network's input, float32 [n, 3, h, w]."""
    mean, deviation = (
        torch.tensor(values, device=batch.device).view(1, 3, 1, 1) for values in (header.mean, header.deviation)
    )
    return (batch.float().div(255).expand(-1, 3, -1, -1) - mean) / deviation


def build_header(architecture: str, side: int, grey: bool, size: int, classes: Sequence[str]) -> Header:
    """Return the header of a network to train; ``size`` counts for the small one, others have their own.

    Raises:
        ConfigError: the network is unknown, or pictures of ``side`` pixels are too small for it.
    """
    if architecture == SMALL:
        mean, deviation = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    else:
        mean, deviation = _IMAGENET
        module = build(architecture, side, size, grey)[0].eval()
        try:
            with torch.inference_mode():
                size = int(module(torch.zeros(1, 3, side, side)).shape[1])
        except RuntimeError as error:
            raise ConfigError(f"train.side: {side} pixels are too few for {architecture}: {error}") from None
    return Header(
        architecture=architecture, side=side, grey=grey, size=size, mean=mean, deviation=deviation, classes=(*classes,)
    )


def build(architecture: str, side: int, size: int, grey: bool) -> tuple[nn.Module, list[str]]:
    """Return a network without its last layer, with random weights, and the names of the removed layers.

    Raises:
        ConfigError: the network is unknown.
    """
    if architecture == SMALL:
        return Small(side, size, grey), []
    if architecture == "efficientnet_lite0":
        return efficientnet_lite0.EfficientNetLite0(), ["_fc"]
    try:
        with warnings.catch_warnings():
            # Two networks warn that their weights are random, which is intended here.
            warnings.simplefilter("ignore", FutureWarning)
            module = torchvision.models.get_model(architecture, weights=None)
    except ValueError:
        raise ConfigError(
            f"train.architecture: {architecture}: no such network (known: {SMALL}, efficientnet_lite0, and the "
            "classification networks of torchvision, such as resnet18)"
        ) from None
    return module, torchvision_models.remove_last_layer(module)


def save(module: nn.Module, header: Header) -> bytes:
    """Return the content of a file with the state dict, and with the header as a tensor of bytes."""
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    state[HEADER] = torch.frombuffer(bytearray(header.model_dump_json().encode()), dtype=torch.uint8)
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()


def load(path: str) -> tuple[nn.Module, Header]:
    """Return the network in a file that save() has written; no code in the file is run.

    Raises:
        ConfigError: the file cannot be read, or was not written by train-backbone.
    """
    state = weights.read_state_dict(path)
    try:
        header = Header.model_validate_json(bytes(state.pop(HEADER).numpy().tobytes()))
    except (KeyError, ValidationError):
        raise ConfigError(
            f"backbone.weights: {path} was not written by 'embedall train-backbone'; for a state dict of another "
            "network set backbone.name to that network's name"
        ) from None
    module, _ = build(header.architecture, header.side, header.size, header.grey)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(f"backbone.weights: {path} is damaged: {str(error).splitlines()[-1].strip()}") from None
    return module, header
