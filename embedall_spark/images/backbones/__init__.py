"""Pretrained networks without their last layer, one file per source; torch is imported only where one is loaded."""

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

OWN = ("efficientnet_lite0",)
"""Networks that are files of this folder."""
TRAINED = "trained"
"""Networks that embedall train-backbone has made."""


class BackboneConfig(Section):
    """Which network turns pictures into vectors."""

    name: str = Field(
        "efficientnet_lite0",
        description=f"{', '.join(OWN)}, a classification network of torchvision, module:function of yours, or "
        f"{TRAINED}: what embedall train-backbone has made, weights its file",
    )
    weights: str | None = Field(
        None,
        description="a file of a state dict (path or URI, the same for every worker) or a name among torchvision's "
        "weights, such as IMAGENET1K_V1; unset: the best that the source has",
    )


class Backbone(NamedTuple):
    """A network without its last layer, and what a picture must go through before it."""

    module: torch.nn.Module
    """In evaluation mode: float32 [n, 3, h, w] -> [n, size]."""
    transform: Callable[[Image.Image], torch.Tensor]
    """An RGB picture -> float32 [3, h, w], the same h and w for every picture."""
    size: int
    """Length of a vector."""
    fingerprint: str
    """16 hexadecimal digits of the weights and the transform, the same in every process."""


def load(config: BackboneConfig) -> Backbone:
    """Return the network that the configuration names, on the CPU and in evaluation mode; nothing is downloaded.

    Raises:
        ConfigError: there is no such network, or its weights are missing, unsafe or of another network.
    """
    if config.name == TRAINED:
        if config.weights is None:
            raise ConfigError("backbone.weights: trained needs the file that embedall train-backbone has written")
        made: Backbone = import_module(f"{__name__}.trained").load(config.weights)
        return made
    own = config.name if config.name in OWN else "torchvision_models"
    source = "custom" if ":" in config.name else own
    found: Backbone = import_module(f"{__name__}.{source}").load(config)
    return found
