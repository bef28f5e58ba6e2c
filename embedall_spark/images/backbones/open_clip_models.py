"""Pairs of towers of open_clip, such as CLIP and SigLIP: images and texts become vectors of one space."""

from __future__ import annotations

import difflib
import functools
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from embedall_spark import files
from embedall_spark.errors import ConfigError
from embedall_spark.images.backbones import TextTower, first_line, import_extra, weights

# First: it keeps torch's compiler from being imported, and open_clip imports torchvision.
from embedall_spark.images.vision_library import torchvision  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from embedall_spark.images.backbones import Backbone, BackboneConfig

EXTRA = "open-clip"
_CONFIG = "open_clip_config.json"


class _Towers(NamedTuple):
    """A network of open_clip, and where its tokenizer is described."""

    model: Any
    identifier: str


def load(config: BackboneConfig) -> Backbone:
    """Return the image tower: its vectors are in one space with those of load_text().

    Raises:
        ConfigError: open_clip is not installed, the network is unknown, or its files are missing or of another one.
    """
    return _image_tower(_load(config), config)


@functools.lru_cache(maxsize=1)
def load_text(config: BackboneConfig, device: str) -> TextTower:
    """Return the text tower of the network, on a device; it stays in the process. Raises as load() does."""
    towers = _load(config)
    fingerprint = _image_tower(towers, config).fingerprint
    model = towers.model.eval().requires_grad_(False).to(device)
    try:
        tokenize = import_extra("open_clip", EXTRA).get_tokenizer(towers.identifier)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise ConfigError(
            f"backbone.name: the tokenizer of {config.name} is not on this host ({first_line(error)}); nothing is "
            "downloaded in a run: give a folder with its files, open_clip:FOLDER"
        ) from None

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        with torch.inference_mode():
            vectors: NDArray[np.float32] = model.encode_text(tokenize(list(texts)).to(device)).float().cpu().numpy()
        return vectors

    return TextTower(encode, encode(["a"]).shape[1], fingerprint)


def _image_tower(towers: _Towers, config: BackboneConfig) -> Backbone:
    """Return the image tower with the transform of the network's description, or of the options."""
    package = import_extra("open_clip", EXTRA)
    options = config.transform.model_dump(exclude_none=True)
    if {"size", "crop"} & options.keys():
        raise ConfigError("backbone.transform: networks of open_clip have a size of their own; leave size and crop out")
    transform = package.transform.PreprocessCfg(
        **package.transform.merge_preprocess_dict(towers.model.visual.preprocess_cfg, options)
    )
    transform = package.transform.image_transform_v2(transform, is_train=False)
    return weights.make_backbone(config.name, towers.model.visual, transform, "open_clip")


def _load(config: BackboneConfig) -> _Towers:
    """Return both towers from a folder as Hugging Face has it, or by a name of open_clip and a file."""
    # open_clip asks the hub where it lacks a file; a hundred tasks must not.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    package = import_extra("open_clip", EXTRA)
    name = config.name.partition(":")[2]
    if "/" in name or os.path.isdir(name):
        if config.weights is not None:
            raise ConfigError("backbone.weights: the folder of an open_clip network has its weights; leave them out")
        if not os.path.isfile(os.path.join(name, _CONFIG)):
            raise ConfigError(
                f"backbone.name: {name} has no file {_CONFIG}; give a folder that every worker sees, such as of "
                "huggingface-cli download laion/CLIP-ViT-B-32-laion2B-s34B-b79K --local-dir FOLDER"
            )
        folder = f"local-dir:{os.path.abspath(name)}"
        return _Towers(_create(config.name, folder), folder)
    if name not in package.list_models():
        matches = difflib.get_close_matches(name, package.list_models(), n=3)
        hint = f"; did you mean {' or '.join(matches)}?" if matches else ""
        raise ConfigError(f"backbone.name: {name} is neither a network of open_clip nor a folder{hint}")
    if config.weights is None or not files.exists(config.weights):
        problem = "needs a file" if config.weights is None else f"found no file {config.weights}"
        raise ConfigError(
            f"backbone.weights: {config.name} {problem}; nothing is downloaded in a run: download it once, or give "
            "a folder with all files of the network, open_clip:FOLDER"
        )
    with _on_this_host(config.weights) as path:
        return _Towers(_create(config.name, name, path), name)


def _create(name: str, identifier: str, path: str | None = None) -> Any:
    """Return both towers with their weights, which must be there: random ones are never used."""
    package = import_extra("open_clip", EXTRA)
    tag = (package.list_pretrained_tags_by_model(identifier) or [None])[0] if path is not None else None
    # Of three networks in 115, published weights differ in their transform; there the options decide.
    published = package.pretrained.get_pretrained_cfg(identifier, tag) if tag is not None else {}
    try:
        return package.create_model(
            identifier, path, require_pretrained=True, pretrained_text=False, force_preprocess_cfg=published
        )
    except Exception as error:
        # It fails in many ways on other files; torch.load(weights_only=True) runs nothing in them.
        raise ConfigError(f"backbone.name: {name} cannot be loaded: {first_line(error)}") from None


@contextmanager
def _on_this_host(path: str) -> Iterator[str]:
    """Yield a file's path, that of a temporary copy where it lies on another storage."""
    if files.is_local(path):
        yield files.resolve(path)[1]
        return
    with tempfile.TemporaryDirectory(prefix="embedall-weights-") as folder:
        copy = Path(folder, path.rpartition("/")[2])
        copy.write_bytes(files.read_bytes(path))
        yield str(copy)
