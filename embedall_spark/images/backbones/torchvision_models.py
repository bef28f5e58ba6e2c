"""Any classification network of torchvision; its last layer is identified by running it, not by its name."""

from __future__ import annotations

import difflib
import os
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from embedall_spark import files
from embedall_spark.errors import ConfigError
from embedall_spark.images.backbones import BUILT_IN, TRAINED, weights
from embedall_spark.images.vision_library import torchvision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedall_spark.images.backbones import Backbone, BackboneConfig


def load(config: BackboneConfig) -> Backbone:
    """Return a network of torchvision with weights from its cache or a file, and the transform of these weights.

    A file that is named as one of torchvision's gets the transform of that one, any other the usual one of ImageNet:
    the shorter side scaled to 256 pixels, the center 224.

    Raises:
        ConfigError: the network or the weights are unknown, or the file of the weights is missing.
    """
    names = torchvision.models.list_models(module=torchvision.models)
    if config.name not in names:
        matches = difflib.get_close_matches(config.name, names, n=3)
        hint = f"; did you mean {' or '.join(matches)}?" if matches else ""
        raise ConfigError(
            f"backbone.name: {config.name} is neither a network of this package ({', '.join(BUILT_IN)}, {TRAINED}) nor "
            f"a classification network of torchvision, nor module:function{hint}"
        )
    published, path = _find_weights(config)
    if published is not None:
        with _in_cache(path):
            try:
                module = _build(config.name, published)
            except RuntimeError as error:
                detail = " ".join(str(error).split())[:300]
                raise ConfigError(f"backbone.weights: {path} is of another network: {detail}") from None
        remove_last_layer(module)
        return weights.make_backbone(config.name, module, published.transforms())
    module = _build(config.name, None)
    removed = remove_last_layer(module)
    weights.load_into(module, path, without=removed)
    transform = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    return weights.make_backbone(config.name, module, transform)


def remove_last_layer(module: nn.Module, side: int = 224) -> list[str]:
    """Replace the classification layer by the identity; return the names of the removed layers.

    It is the last linear or convolutional layer to run that has as many outputs as the network. Layers after it, such
    as a pooling, then work on its input. Branches that run only in training are removed too.

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
        raise ConfigError(f"backbone.name: {type(module).__name__} has no layer that computes its {classes} outputs")
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


def _build(name: str, published: Any) -> nn.Module:
    with warnings.catch_warnings():
        # Two networks warn that their initial weights are random; these are replaced.
        warnings.simplefilter("ignore", FutureWarning)
        module: nn.Module = torchvision.models.get_model(name, weights=published)
    return module


def _find_weights(config: BackboneConfig) -> tuple[Any, str]:
    """Return the entry of torchvision's catalog, None where the file is of another origin, and the path of the file."""
    catalog = torchvision.models.get_model_weights(config.name)
    weights_name = config.weights or "DEFAULT"
    if "/" in weights_name or weights_name.endswith((".pt", ".pth", ".bin")):
        file = weights_name.rpartition("/")[2]
        return next((entry for entry in catalog if entry.url.rpartition("/")[2] == file), None), weights_name
    try:
        published = catalog[weights_name]
    except KeyError:
        raise ConfigError(
            f"backbone.weights: {weights_name} is neither a file (.pt, .pth) nor weights of {config.name} "
            f"(known: DEFAULT, {', '.join(entry.name for entry in catalog)})"
        ) from None
    file = published.url.rpartition("/")[2]
    path = os.path.join(torch.hub.get_dir(), "checkpoints", file)
    if not os.path.exists(path):
        # A hundred tasks must not download the same file at once, from hosts that may have no access to the internet.
        raise ConfigError(
            f"backbone.weights: {config.name} {published.name} is not on this host: no file {path}. Download it once "
            f'on a host with internet access (python -c "import torchvision; torchvision.models.get_model('
            f"'{config.name}', weights='{published.name}')\"), then set backbone.weights to the file {file} in a "
            "folder that all hosts share"
        )
    return published, path


@contextmanager
def _in_cache(path: str) -> Iterator[None]:
    """Put a file into a temporary cache where torchvision looks for it, after checking that it holds only tensors."""
    weights.read_state_dict(path)
    hub = torch.hub.get_dir()
    with tempfile.TemporaryDirectory(prefix="embedall-weights-") as folder:
        copy = Path(folder, "checkpoints", path.rpartition("/")[2])
        copy.parent.mkdir()
        copy.write_bytes(files.read_bytes(path))
        torch.hub.set_dir(folder)
        try:
            yield
        finally:
            torch.hub.set_dir(hub)
