"""A network made ready to run: batch norms folded in, channels last, on its device, in the number format asked for."""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.fx.experimental.optimization import fuse

from embedall_spark.errors import ConfigError
from embedall_spark.images import backbones, decode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from embedall_spark.images.backbones import Backbone, BackboneConfig
    from embedall_spark.sources.image_limits import Limits

    Run = Callable[[torch.Tensor], torch.Tensor]

LEAST_COSINE = 0.999
"""Between a picture's vectors in bfloat16 and in float32, where bfloat16 is chosen by itself."""
# Sides of the squares of colour in the pictures that show what bfloat16 costs: from two areas to a fine texture.
_PROBES = (2, 3, 4, 6, 8, 12, 16, 32)


# A network sees at least so many pixels of a picture's shorter side.
_SIDE = 256


class Vectors(NamedTuple):
    """What a network made of some pictures."""

    values: NDArray[np.float32]
    """[n, size]"""
    norms: NDArray[np.float64]
    """Their lengths as the network gave them, [n]."""
    finite: NDArray[np.bool_]
    """Which of them are numbers throughout, [n]."""


class Model(NamedTuple):
    """A network ready to run."""

    run: Run
    transform: Callable[[Image.Image], torch.Tensor]
    size: int

    def pixels(self, content: bytes, limits: Limits) -> torch.Tensor:
        """Return an encoded picture as the network takes it.

        Raises:
            BadImage: it cannot be decoded, or is so narrow that scaled by its shorter side it has too many pixels.
        """
        picture = decode.decode(content, limits)
        short, long = sorted(picture.size)
        if short < _SIDE and _SIDE * _SIDE * long // short > limits.max_pixels:
            raise decode.BadImage(f"{picture.width} x {picture.height} pixels, too narrow to be scaled")
        return self.transform(picture)

    def vectors(self, pixels: Sequence[torch.Tensor], normalize: bool) -> Vectors:
        """Return the vectors of pictures that went through the network's transform, of length 1 if so asked."""
        if not pixels:
            return Vectors(np.empty((0, self.size), np.float32), np.empty(0), np.empty(0, np.bool_))
        values = self.run(torch.stack(list(pixels))).numpy()
        exact = values.astype(np.float64)
        norms = np.linalg.norm(exact, axis=1)
        if normalize:
            # A vector of zeros has no direction, and stays.
            values = (exact / np.where(norms > 0, norms, 1)[:, None]).astype(np.float32)
        return Vectors(values, norms, np.isfinite(norms))


@functools.lru_cache(maxsize=2)
def model(
    config: BackboneConfig, device: str, dtype: str, compiled: bool = False, fingerprint: str | None = None
) -> Model:
    """Return a network ready to run, see prepare(); the process keeps it for its next tasks.

    Raises:
        ConfigError: it cannot be loaded, or has another fingerprint.
    """
    found = backbones.load(config)
    if fingerprint not in (None, found.fingerprint):
        raise ConfigError(
            f"backbone: {config.name} is {found.fingerprint} on this host and {fingerprint} where the run began: "
            "weights or transform differ; put the same on every host"
        )
    return Model(prepare(found, device=device, dtype=dtype, compiled=compiled), found.transform, found.size)


def prepare(backbone: Backbone, *, device: str, dtype: str = "float32", compiled: bool = False) -> Run:
    """Return a function from pictures, float32 [n, 3, h, w], to features, float32 [n, size], both in main memory.

    Args:
        backbone: the network; it stays as it is.
        device: as torch names it, such as cpu or cuda:0.
        dtype: float32, bfloat16, or auto: bfloat16 where the device is made for it and the vectors of a few drawn
            pictures keep a cosine of 0.999 with those in float32.
        compiled: whether torch.compile makes a program of it, which takes a minute and needs a C++ compiler.
    """
    module = _folded(backbone.module).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = _runs(module, device, torch.float32, compiled)
    if dtype == "float32" or (dtype == "auto" and not _is_made_for_bfloat16(device)):
        return run
    short = _runs(copy.deepcopy(module).to(torch.bfloat16), device, torch.bfloat16, compiled)
    if dtype == "bfloat16":
        return short
    pictures = torch.stack([backbone.transform(picture) for picture in _probes()])
    with torch.inference_mode():
        exact = backbone.module(pictures)
    keeps = torch.nn.functional.cosine_similarity(short(pictures), exact).min() >= LEAST_COSINE
    return short if keeps else run


def _runs(module: torch.nn.Module, device: str, dtype: torch.dtype, compiled: bool) -> Run:
    call = torch.compile(module) if compiled else module

    def run(pictures: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            found: torch.Tensor = call(pictures.to(device, dtype, memory_format=torch.channels_last))
            return found.float().cpu()

    return run


def _folded(module: torch.nn.Module) -> torch.nn.Module:
    """Return a copy with each batch norm in the convolution before it, half as much work again saved; or just a copy.

    A network whose steps depend on its input cannot be looked through.
    """
    try:
        return fuse(module)
    except Exception:
        return copy.deepcopy(module)


def _is_made_for_bfloat16(device: str) -> bool:
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    can = torch.cpu.get_capabilities()
    return bool(can.get("amx_bf16") or can.get("avx512_bf16"))


def _probes() -> list[Image.Image]:
    """Return coloured patterns, coarse to fine, always the same."""
    dice = np.random.default_rng(0)
    squares = [Image.fromarray(dice.integers(0, 256, (side, side, 3), dtype=np.uint8)) for side in _PROBES]
    return [picture.resize((256, 256), Image.Resampling.BICUBIC) for picture in squares]
