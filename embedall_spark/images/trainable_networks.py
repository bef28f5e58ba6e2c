"""Networks that are trained here, what a picture goes through before them, and the file that keeps one."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import torch
import torchvision
from pydantic import Field, ValidationError
from torch import nn

from embedall_spark.config import Section
from embedall_spark.errors import ConfigError
from embedall_spark.images import pixel_shards
from embedall_spark.images.backbones import efficientnet_lite0, torchvision_models, weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

SMALL = "small"
HEADER = "embedall.header"
_LAST_SIDE, _WIDTHS = 4, (32, 64, 128, 256)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Header(Section):
    """What a file of a trained network says beside its tensors."""

    architecture: str = Field(description="small, efficientnet_lite0 or a classification network of torchvision")
    side: int = Field(ge=8, description="height and width of a picture, pixels")
    grey: bool = Field(description="whether colours were taken away")
    size: int = Field(ge=1, description="length of a vector")
    mean: tuple[float, float, float] = Field(description="taken from each channel, of 0 to 1")
    deviation: tuple[float, float, float] = Field(description="each channel is divided by it")
    classes: tuple[str, ...] = Field(description="what it was trained to tell apart")


class Small(nn.Module):
    """A small convolutional network: 3 x 3 filters, batch normalisation and halving until a side is under 5 pixels.

    Its vectors are normalised over the batch too, so that their directions spread (Luo et al. 2019, "Bag of Tricks and
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
        """Return vectors [n, size] of pictures [n, 3, side, side]; grey ones have three equal channels."""
        made: torch.Tensor = self.embed(self.features(x[:, : self.channels]))
        return made


class Transform:
    """From a picture to what the network takes."""

    def __init__(self, header: Header) -> None:
        self._header = header

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        """Return float32 [3, side, side]."""
        found = torch.from_numpy(pixel_shards.pixels(picture, self._header.side, self._header.grey))
        return scaled(found[None], self._header)[0]

    def __repr__(self) -> str:
        return f"pixels {self._header.model_dump_json(include={'side', 'grey', 'mean', 'deviation'})}"


def scaled(batch: torch.Tensor, header: Header) -> torch.Tensor:
    """Return uint8 [n, 1 or 3, h, w] as the network takes it, float32 [n, 3, h, w]."""
    mean, deviation = (
        torch.tensor(values, device=batch.device).view(1, 3, 1, 1) for values in (header.mean, header.deviation)
    )
    return (batch.float().div(255).expand(-1, 3, -1, -1) - mean) / deviation


def header_of(architecture: str, side: int, grey: bool, size: int, classes: Sequence[str]) -> Header:
    """Return what a network that begins to learn will say; a network of others has a size of its own.

    Raises:
        ConfigError: there is no such network, or pictures are too small for it.
    """
    if architecture == SMALL:
        middle = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    else:
        middle = _IMAGENET
        module = build(architecture, side, size, grey)[0].eval()
        try:
            with torch.inference_mode():
                size = int(module(torch.zeros(1, 3, side, side)).shape[1])
        except RuntimeError as error:
            raise ConfigError(f"train.side: {side} pixels are too few for {architecture}: {error}") from None
    mean, deviation = middle
    return Header(
        architecture=architecture, side=side, grey=grey, size=size, mean=mean, deviation=deviation, classes=(*classes,)
    )


def build(architecture: str, side: int, size: int, grey: bool) -> tuple[nn.Module, list[str]]:
    """Return a network without its last layer, filled at random, and the names of what was taken off.

    Raises:
        ConfigError: there is no such network.
    """
    if architecture == SMALL:
        return Small(side, size, grey), []
    if architecture == "efficientnet_lite0":
        return efficientnet_lite0.EfficientNetLite0(), ["_fc"]
    try:
        with warnings.catch_warnings():
            # Two networks say that they fill themselves at random, which is what is asked for.
            warnings.simplefilter("ignore", FutureWarning)
            module = torchvision.models.get_model(architecture, weights=None)
    except ValueError:
        raise ConfigError(
            f"train.architecture: {architecture}: no such network (known: {SMALL}, efficientnet_lite0, and the "
            "classification networks of torchvision, such as resnet18)"
        ) from None
    return module, torchvision_models.take_off_last_layer(module)


def save(module: nn.Module, header: Header) -> bytes:
    """Return a state dict as a file, with the header as a tensor of bytes."""
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    state[HEADER] = torch.frombuffer(bytearray(header.model_dump_json().encode()), dtype=torch.uint8)
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()


def load(path: str) -> tuple[nn.Module, Header]:
    """Return a network from such a file; no code in it is run.

    Raises:
        ConfigError: the file cannot be read, or is none of ours.
    """
    state = weights.read(path)
    try:
        header = Header.model_validate_json(bytes(state.pop(HEADER).numpy().tobytes()))
    except (KeyError, ValidationError):
        raise ConfigError(
            f"backbone.weights: {path} is no network of 'embedall train-backbone'; for a state dict of another network "
            "give that network's name (backbone.name)"
        ) from None
    module, _ = build(header.architecture, header.side, header.size, header.grey)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(f"backbone.weights: {path} is damaged: {str(error).splitlines()[-1].strip()}") from None
    return module, header
