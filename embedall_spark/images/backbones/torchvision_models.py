"""Any classification network of torchvision; its last layer is found by running it, not by its name."""

from __future__ import annotations

import difflib
import os
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torchvision
from torch import nn

from embedall_spark import files
from embedall_spark.errors import ConfigError
from embedall_spark.images.backbones import weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedall_spark.images.backbones import Backbone, BackboneConfig


def load(config: BackboneConfig) -> Backbone:
    """Return a network of torchvision with weights from its cache or a file, and the transform that they want.

    A file that has the name of torchvision's own gets that one's transform, any other the usual one of ImageNet: 256
    pixels the shorter side, the 224 in the middle.

    Raises:
        ConfigError: no such network or weights, or no file of them.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if config.name not in known:
        near = difflib.get_close_matches(config.name, known, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(
            f"backbone.name: {config.name} is neither ours nor a classification network of torchvision, nor "
            f"module:function{hint}"
        )
    own, path = _find(config)
    if own is not None:
        with _cached(path):
            try:
                module = _built(config.name, own)
            except RuntimeError as error:
                why = " ".join(str(error).split())[:300]
                raise ConfigError(f"backbone.weights: {path} is of another network: {why}") from None
        take_off_last_layer(module)
        return weights.finish(config.name, module, own.transforms())
    module = _built(config.name, None)
    removed = take_off_last_layer(module)
    weights.fill(module, path, without=removed)
    usual = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    return weights.finish(config.name, module, usual)


def take_off_last_layer(module: nn.Module, side: int = 224) -> list[str]:
    """Replace the layer that gives the classes by one that does nothing; return the names of what was taken off.

    It is the last linear or convolutional layer to run whose outputs are as many as the network's. What follows it, a
    pooling perhaps, then works on its input. Branches that run in training only go too.

    Raises:
        ConfigError: no such layer runs.
    """
    module.eval()
    ran: list[str] = []
    hooks = [
        part.register_forward_hook(lambda *_, name=name: ran.append(name)) for name, part in module.named_modules()
    ]
    with torch.inference_mode():
        classes = module(torch.zeros(1, 3, side, side)).shape[1]
    for hook in hooks:
        hook.remove()
    last = next((name for name in reversed(ran) if _width(module.get_submodule(name)) == classes), None)
    if last is None:
        raise ConfigError(f"backbone.name: {type(module).__name__} has no layer that gives its {classes} outputs")
    module.set_submodule(last, nn.Identity())
    idle = [
        name
        for name, child in module.named_children()
        if any(True for _ in child.parameters())
        and not any(part == name or part.startswith(f"{name}.") for part in ran)
    ]
    for name in idle:
        setattr(module, name, None)
    return [last, *idle]


def _width(layer: nn.Module) -> int:
    if isinstance(layer, nn.Linear):
        return layer.out_features
    return layer.out_channels if isinstance(layer, nn.Conv2d) else 0


def _built(name: str, own: Any) -> nn.Module:
    with warnings.catch_warnings():
        # Two networks say that they fill themselves at random, which the weights undo.
        warnings.simplefilter("ignore", FutureWarning)
        module: nn.Module = torchvision.models.get_model(name, weights=own)
    return module


def _find(config: BackboneConfig) -> tuple[Any, str]:
    """Return torchvision's own weights that are meant, None where a file is of another origin, and the file."""
    members = torchvision.models.get_model_weights(config.name)
    given = config.weights or "DEFAULT"
    if "/" in given or given.endswith((".pt", ".pth", ".bin")):
        name = given.rpartition("/")[2]
        return next((member for member in members if member.url.rpartition("/")[2] == name), None), given
    try:
        own = members["DEFAULT" if given == "DEFAULT" else given]
    except KeyError:
        raise ConfigError(
            f"backbone.weights: {given} is neither a file (.pt, .pth) nor weights of {config.name} "
            f"(known: DEFAULT, {', '.join(member.name for member in members)})"
        ) from None
    name = own.url.rpartition("/")[2]
    path = os.path.join(torch.hub.get_dir(), "checkpoints", name)
    if not os.path.exists(path):
        # A hundred tasks must not ask for the same file at once, from hosts that may have no way out.
        raise ConfigError(
            f"backbone.weights: {config.name} {own.name} is not on this host: no file {path}. Fetch it once where "
            f"there is a network (python -c \"import torchvision; torchvision.models.get_model('{config.name}', "
            f"weights='{own.name}')\"), then set backbone.weights to the file {name} in a folder that all hosts share"
        )
    return own, path


@contextmanager
def _cached(path: str) -> Iterator[None]:
    """Let torchvision find a file where it would have put it itself, once it is known to hold tensors only."""
    weights.read(path)
    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory(prefix="embedall-weights-") as folder:
        kept = Path(folder, "checkpoints", path.rpartition("/")[2])
        kept.parent.mkdir()
        kept.write_bytes(files.read_bytes(path))
        torch.hub.set_dir(folder)
        try:
            yield
        finally:
            torch.hub.set_dir(before)
