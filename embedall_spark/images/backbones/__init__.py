"""Pretrained networks without their last layer, one file per source; only load() imports torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from embedall_spark import extras
from embedall_spark.config import Section
from embedall_spark.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image

BUILT_IN = ("efficientnet_lite0",)
"""Networks that have a file in this folder."""
TRAINED = "trained"
"""Name of the networks that embedall train-backbone has trained."""
SCHEMES = {"timm": "timm_models", "onnx": "onnx_file", "open_clip": "open_clip_models"}
"""What comes before the colon in names of networks of other packages, and the file of each in this folder."""


class TransformConfig(Section):
    """How pictures become the input of a network; only for those of timm, open_clip and ONNX files.

    What is not set is as the network's own description says.
    """

    size: int | None = Field(None, ge=1, le=4096, description="width and height of the input in pixels")
    crop: float | None = Field(
        None, gt=0, le=1, description="share of the scaled picture's shorter side that is kept, such as 0.875"
    )
    mean: tuple[float, float, float] | None = Field(
        None, description="of red, green and blue, from 0 to 1; subtracted, such as [0.485, 0.456, 0.406]"
    )
    std: tuple[float, float, float] | None = Field(
        None, description="what each color is then divided by, such as [0.229, 0.224, 0.225]"
    )
    interpolation: Literal["bilinear", "bicubic"] | None = Field(None, description="how the picture is scaled")


class BackboneConfig(Section):
    """Which network turns pictures into vectors."""

    name: str = Field(
        "efficientnet_lite0",
        description=f"{', '.join(BUILT_IN)}, a classification network of torchvision, module:function of yours, "
        f"{TRAINED}: a network of embedall train-backbone, whose file is given as weights, timm:NAME, open_clip:NAME "
        "or open_clip:FOLDER, or onnx:FILE",
    )
    weights: str | None = Field(
        None,
        description="file of a state dict (path or URI, the same for every worker) or the name of weights of "
        "torchvision, such as IMAGENET1K_V1; unset: the network's default weights",
    )
    output: str | None = Field(
        None, description="tensor of an ONNX file that is the vector; unset: the file's only output"
    )
    transform: TransformConfig = TransformConfig()


class Backbone(NamedTuple):
    """A network without its last layer, and the transform of its pictures."""

    module: torch.nn.Module
    """In evaluation mode: float32 [n, 3, h, w] -> [n, size]."""
    transform: Callable[[Image.Image], torch.Tensor]
    """An RGB picture -> float32 [3, h, w], the same h and w for every picture."""
    size: int
    """Dimension of its vectors."""
    fingerprint: str
    """16 hexadecimal digits of the weights and the transform, the same in every process."""


class TextTower(NamedTuple):
    """The text side of a network that was trained on pictures and their captions."""

    encode: Callable[[Sequence[str]], NDArray[np.float32]]
    """Texts -> float32 [n, size], in one space with the pictures' vectors."""
    size: int
    fingerprint: str
    """That of the image side."""


def is_pair(config: BackboneConfig) -> bool:
    """Return whether the network has a text side too."""
    return config.name.startswith("open_clip:")


def load_text(config: BackboneConfig, device: str = "cpu") -> TextTower:
    """Return the text side of a network; raises ConfigError as load() does."""
    extras.check(extras.IMAGES, f"the network {config.name}")
    tower: TextTower = import_module(f"{__name__}.open_clip_models").load_text(config, device)
    return tower


def first_line(error: Exception) -> str:
    """Return the beginning of another package's error, for one of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def load(config: BackboneConfig) -> Backbone:
    """Return the network that the configuration names, on the CPU and in evaluation mode; nothing is downloaded.

    Raises:
        ConfigError: the network is unknown, or its weights are missing, unsafe or of another network.
    """
    if config.name == TRAINED and config.weights is None:
        raise ConfigError("backbone.weights: trained needs the file that embedall train-backbone has written")
    scheme, colon, name = config.name.partition(":")
    if scheme in SCHEMES and colon:
        source = SCHEMES[scheme]
    elif colon:
        source = "user_function"
    else:
        source = config.name if config.name in (*BUILT_IN, TRAINED) else "torchvision_models"
    if scheme not in SCHEMES and config.transform != TransformConfig():
        raise ConfigError(f"backbone.transform: {config.name} has its own transform; leave backbone.transform out")
    if scheme != "onnx" and config.output is not None:
        raise ConfigError("backbone.output names a tensor of an ONNX file (onnx:FILE); leave it out")
    if scheme in SCHEMES and not name.strip():
        raise ConfigError(f"backbone.name: {config.name} names no network; need such as timm:resnet50")
    extras.check(extras.IMAGES, f"backbone.name: the network {config.name}")
    backbone: Backbone = import_module(f"{__name__}.{source}").load(config)
    return backbone


def import_extra(module: str, extra: str) -> ModuleType:
    """Return a package that comes with an extra of this one; raise ConfigError, with the extra's name, without it."""
    return extras.load(module, extra, "backbone.name: a network of this kind")
