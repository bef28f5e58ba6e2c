"""A network that 'embedall train-backbone' has made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedall_spark.images import trainable_networks
from embedall_spark.images.backbones import weights as files

if TYPE_CHECKING:
    from embedall_spark.images.backbones import Backbone


def load(weights: str) -> Backbone:
    """Return the network in a file (path or URI), ready for use.

    Raises:
        ConfigError: the file cannot be read, or is none of ours.
    """
    module, header = trainable_networks.load(weights)
    return files.finish("trained", module, trainable_networks.Transform(header))
