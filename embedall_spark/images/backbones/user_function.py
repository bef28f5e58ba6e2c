"""A network of the user's own: any function in a module that every worker can import."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from torch import nn

from embedall_spark.errors import ConfigError
from embedall_spark.images.backbones import Backbone, weights

if TYPE_CHECKING:
    from embedall_spark.images.backbones import BackboneConfig


def load(config: BackboneConfig) -> Backbone:
    """Return what the function ``module:function`` makes: a Backbone, or a network and its transform.

    It is called with ``backbone.weights`` where they are given, else with nothing.

    Raises:
        ConfigError: the function is not there, or makes something else.
    """
    module, _, name = config.name.partition(":")
    try:
        function = getattr(import_module(module), name, None)
    except ImportError as error:
        raise ConfigError(f"backbone.name: {config.name}: {error}; install the module on every host") from None
    if not callable(function):
        raise ConfigError(f"backbone.name: {config.name}: the module {module} has no function {name}")
    made = function() if config.weights is None else function(config.weights)
    if isinstance(made, Backbone):
        made.module.eval().requires_grad_(False)
        return made
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module) and callable(made[1])):
        raise ConfigError(
            f"backbone.name: {config.name} gave {type(made).__name__}, need a Backbone or (torch module, transform)"
        )
    return weights.finish(config.name, made[0], made[1])
