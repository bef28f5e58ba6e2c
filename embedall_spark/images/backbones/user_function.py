"""A network that a function of the user returns; every worker must be able to import its module."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from torch import nn

from embedall_spark.errors import ConfigError
from embedall_spark.images.backbones import Backbone, weights

if TYPE_CHECKING:
    from embedall_spark.images.backbones import BackboneConfig


def load(config: BackboneConfig) -> Backbone:
    """Return the network of the function ``module:function``: it returns a Backbone, or a network and its transform.

    The function is called with ``backbone.weights`` if they are set, else without arguments.

    Raises:
        ConfigError: the function does not exist, or returns something else.
    """
    module, _, name = config.name.partition(":")
    try:
        function = getattr(import_module(module), name, None)
    except ImportError as error:
        raise ConfigError(f"backbone.name: {config.name}: {error}; install the module on every host") from None
    if not callable(function):
        raise ConfigError(f"backbone.name: {config.name}: the module {module} has no function {name}")
    result = function() if config.weights is None else function(config.weights)
    if isinstance(result, Backbone):
        result.module.eval().requires_grad_(False)
        return result
    match result:
        case (nn.Module() as network, transform) if callable(transform):
            return weights.make_backbone(config.name, network, transform)
    raise ConfigError(
        f"backbone.name: {config.name} returned {type(result).__name__}, need a Backbone or (torch module, transform)"
    )
