"""What the sources of networks share: state dicts from files, and the check and fingerprint of what was built."""

from __future__ import annotations

import hashlib
import io
import re
from typing import TYPE_CHECKING

import torch
from PIL import Image

from embedall_spark import files
from embedall_spark.errors import ConfigError
from embedall_spark.images.backbones import Backbone

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Keys that an error names.
_SHOWN = 3


def read(path: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a state dict in a file on any storage; no code in the file is run.

    Raises:
        ConfigError: it cannot be read, or holds something else than named tensors.
    """
    try:
        content = files.read_bytes(path)
    except OSError as error:
        raise ConfigError(
            f"backbone.weights: {path} cannot be read ({error}); every worker must see the file"
        ) from None
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        # The unpickler fails in many ways on what is no state dict; it runs nothing, whatever it finds.
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"backbone.weights: {path} is not a plain state dict, and nothing in it was run: {why[:200]}; "
            "save one with torch.save(module.state_dict(), file)"
        ) from None
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        what = f"keys {_some([str(key) for key in found])}" if isinstance(found, dict) else type(found).__name__
        raise ConfigError(
            f"backbone.weights: {path} holds {what}, need names of tensors: save one with "
            "torch.save(module.state_dict(), file)"
        )
    return found


def fill(module: torch.nn.Module, path: str, without: Sequence[str] = ()) -> None:
    """Load a file into a network; tensors of the parts named in ``without``, which were taken off, may be there.

    Raises:
        ConfigError: the file cannot be used, lacks a tensor, has one too many or one of another shape.
    """
    state = {
        name: value.float() if value.is_floating_point() else value
        for name, value in read(path).items()
        if not any(name.startswith(f"{part}.") for part in without)
    }
    have = module.state_dict()
    shapes = [
        f"{name} {list(state[name].shape)}, need {list(have[name].shape)}"
        for name in have
        if name in state and state[name].shape != have[name].shape
    ]
    if shapes:
        raise ConfigError(f"backbone.weights: {path} is of another network: {_some(shapes)}; correct backbone.name")
    # A batch norm's counter is not used, and old files lack it.
    missing = [name for name in have if name not in state and not name.endswith("num_batches_tracked")]
    surplus = [name for name in state if name not in have]
    if missing or surplus:
        wrong = [f"lacks {_some(missing)}"] * bool(missing) + [f"has {_some(surplus)} too many"] * bool(surplus)
        raise ConfigError(f"backbone.weights: {path} is of another network: it {' and '.join(wrong)}")
    module.load_state_dict(state, strict=False)


def finish(name: str, module: torch.nn.Module, transform: Callable[[Image.Image], torch.Tensor]) -> Backbone:
    """Return a network ready for use, after a look at what it makes of a blank picture.

    Raises:
        ConfigError: transform or network give something else than the contract of Backbone.
    """
    module.eval().requires_grad_(False)
    tensor = transform(Image.new("RGB", (64, 48), "white"))
    if tensor.dtype != torch.float32 or tensor.ndim != 3 or tensor.shape[0] != 3:
        raise ConfigError(
            f"backbone.name: {name}: need a transform to float32 [3, h, w], found {tensor.dtype} {list(tensor.shape)}"
        )
    with torch.inference_mode():
        made = module(torch.stack([tensor, tensor]))
    if not isinstance(made, torch.Tensor) or made.ndim != 2 or len(made) != 2:
        what = list(made.shape) if isinstance(made, torch.Tensor) else type(made).__name__
        raise ConfigError(f"backbone.name: {name}: need a network that makes [n, d] of [n, 3, h, w], found {what}")
    return Backbone(module, transform, made.shape[1], fingerprint(name, module, transform))


def fingerprint(name: str, module: torch.nn.Module, transform: object) -> str:
    """Return 16 hexadecimal digits of a network's name, tensors and transform, the same in every process."""
    # The address that Python shows of a function says nothing about it.
    digest = hashlib.sha256(f"{name}\n{re.sub(' at 0x[0-9a-f]+', '', repr(transform))}".encode())
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(f"\n{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
