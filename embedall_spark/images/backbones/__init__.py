"""Pretrained networks without their last layer, one file per source; only load() imports torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from embedall_spark.config import Section
from embedall_spark.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from PIL import Image

BUILT_IN = ("efficientnet_lite0",)
"""Networks that have a file in this folder."""
TRAINED = "trained"
"""Name of the networks that embedall train-backbone has trained."""


class BackboneConfig(Section):
    """Which network turns pictures into vectors."""

    name: str = Field(
        "efficientnet_lite0",
        description=f"{', '.join(BUILT_IN)}, a classification network of torchvision, module:function of yours, or "
        f"{TRAINED}: a network of embedall train-backbone, whose file is given as weights",
    )
    weights: str | None = Field(
        None,
        description="file of a state dict (path or URI, the same for every worker) or the name of weights of "
        "torchvision, such as IMAGENET1K_V1; unset: the network's default weights",
    )


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


def load(config: BackboneConfig) -> Backbone:
    """Return the network that the configuration names, on the CPU and in evaluation mode; nothing is downloaded.

    Raises:
        ConfigError: the network is unknown, or its weights are missing, unsafe or of another network.
    """
    if config.name == TRAINED and config.weights is None:
        raise ConfigError("backbone.weights: trained needs the file that embedall train-backbone has written")
    if ":" in config.name:
        source = "user_function"
    else:
        source = config.name if config.name in (*BUILT_IN, TRAINED) else "torchvision_models"
    backbone: Backbone = import_module(f"{__name__}.{source}").load(config)
    return backbone
