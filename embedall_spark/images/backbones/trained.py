"""A network that 'embedall train-backbone' has trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedall_spark.images import trainable_networks
from embedall_spark.images.backbones import weights

if TYPE_CHECKING:
    from embedall_spark.images.backbones import Backbone, BackboneConfig


def load(config: BackboneConfig) -> Backbone:
    """Return the network in the file ``weights`` (path or URI), ready for use.

    Raises:
        ConfigError: the file cannot be read, or was not written by train-backbone.
    """
    module, header = trainable_networks.load(config.weights or "")
    return weights.make_backbone(config.name, module, trainable_networks.Transform(header))
