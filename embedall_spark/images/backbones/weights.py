"""Reads state dicts from files, and checks and fingerprints networks, for all sources of networks."""

from __future__ import annotations

import hashlib
import io
import re
from typing import TYPE_CHECKING

import torch
from PIL import Image

from embedall_spark import files
from embedall_spark.errors import ConfigError
from embedall_spark.images.backbones import Backbone, import_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_MAX_NAMED = 3  # keys that an error names


def read_state_dict(path: str) -> dict[str, torch.Tensor]:
    """Return the state dict in a file on any storage; no code in the file is run.

    Raises:
        ConfigError: the file cannot be read, or holds something else than named tensors.
    """
    try:
        content = files.read_bytes(path)
    except OSError as error:
        raise ConfigError(
            f"backbone.weights: {path} cannot be read ({error}); every worker must see the file"
        ) from None
    try:
        if path.endswith(".safetensors"):
            state = import_extra("safetensors.torch", "timm").load(content)
        else:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except ConfigError:
        raise
    except Exception as error:
        # The unpickler fails in many ways on other files, but runs nothing.
        detail = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"backbone.weights: {path} is not a plain state dict, and nothing in it was run: {detail[:200]}; "
            "save one with torch.save(module.state_dict(), file)"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        keys = f"keys {_shorten([str(key) for key in state])}" if isinstance(state, dict) else type(state).__name__
        raise ConfigError(
            f"backbone.weights: {path} holds {keys}, need names of tensors: save one with "
            "torch.save(module.state_dict(), file)"
        )
    return state


def load_into(module: torch.nn.Module, path: str, without: Sequence[str] = ()) -> None:
    """Load a file into a network; it may also hold tensors of the removed parts that ``without`` names.

    Raises:
        ConfigError: the file cannot be used, lacks a tensor, has one too many or one of another shape.
    """
    state = {
        name: value.float() if value.is_floating_point() else value
        for name, value in read_state_dict(path).items()
        if not any(name.startswith(f"{part}.") for part in without)
    }
    expected = module.state_dict()
    shapes = [
        f"{name} {list(state[name].shape)}, need {list(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    if shapes:
        raise ConfigError(f"backbone.weights: {path} is of another network: {_shorten(shapes)}; correct backbone.name")
    # A batch norm's counter is not used, and old files lack it.
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    surplus = [name for name in state if name not in expected]
    if missing or surplus:
        wrong = [f"lacks {_shorten(missing)}"] * bool(missing) + [f"has {_shorten(surplus)} too many"] * bool(surplus)
        raise ConfigError(f"backbone.weights: {path} is of another network: it {' and '.join(wrong)}")
    module.load_state_dict(state, strict=False)


def make_backbone(
    name: str, module: torch.nn.Module, transform: Callable[[Image.Image], torch.Tensor], identity: str | None = None
) -> Backbone:
    """Return a network ready for use, tested on a blank picture.

    Args:
        name: as the configuration has it.
        module: the network, from pictures to features.
        transform: of a picture to its input.
        identity: what stands for the name in the fingerprint, where the name is a path or the weights are no tensors.

    Raises:
        ConfigError: transform or network do not return what Backbone requires.
    """
    module.eval().requires_grad_(False)
    tensor = transform(Image.new("RGB", (64, 48), "white"))
    if tensor.dtype != torch.float32 or tensor.ndim != 3 or tensor.shape[0] != 3:
        raise ConfigError(
            f"backbone.name: {name}: need a transform to float32 [3, h, w], found {tensor.dtype} {list(tensor.shape)}"
        )
    with torch.inference_mode():
        features = module(torch.stack([tensor, tensor]))
    if not isinstance(features, torch.Tensor) or features.ndim != 2 or len(features) != 2:
        output = list(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise ConfigError(f"backbone.name: {name}: need a network from [n, 3, h, w] to [n, d], found {output}")
    return Backbone(module, transform, features.shape[1], fingerprint(identity or name, module, transform))


def fingerprint(name: str, module: torch.nn.Module, transform: object) -> str:
    """Return 16 hexadecimal digits of a network's name, tensors and transform, the same in every process."""
    # The address in the repr of a function differs between processes.
    digest = hashlib.sha256(f"{name}\n{re.sub(' at 0x[0-9a-f]+', '', repr(transform))}".encode())
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(f"\n{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _shorten(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
