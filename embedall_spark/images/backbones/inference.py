"""Prepares a network to run: batch norms folded in, channels last, on its device, in the configured number format."""

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

MIN_COSINE = 0.999
"""Least cosine between a picture's vectors in bfloat16 and in float32 for dtype auto to choose bfloat16."""
# Numbers of colored squares per side of the pictures that bfloat16 is tested on: from few areas to a fine texture.
_PROBES = (2, 3, 4, 6, 8, 12, 16, 32)
# Transforms scale a picture's shorter side to about so many pixels.
_SIDE = 256


class Vectors(NamedTuple):
    """The features of a batch of pictures."""

    values: NDArray[np.float32]
    """[n, size]"""
    norms: NDArray[np.float64]
    """Their lengths before normalization, [n]."""
    finite: NDArray[np.bool_]
    """Whether all values of a vector are finite, [n]."""


class Model(NamedTuple):
    """A network ready to run."""

    run: Run
    transform: Callable[[Image.Image], torch.Tensor]
    size: int

    def pixels(self, content: bytes, limits: Limits) -> torch.Tensor:
        """Return an encoded picture as the network's input, float32 [3, h, w].

        Raises:
            BadImage: it cannot be decoded, or is so narrow that it would have too many pixels when scaled.
        """
        picture = decode.decode(content, limits)
        short, long = sorted(picture.size)
        if short < _SIDE and _SIDE * _SIDE * long // short > limits.max_pixels:
            raise decode.BadImage(f"{picture.width} x {picture.height} pixels, too narrow to be scaled")
        return self.transform(picture)

    def vectors(self, pixels: Sequence[torch.Tensor], normalize: bool) -> Vectors:
        """Return the vectors of inputs that pixels() has returned, at length 1 with ``normalize``."""
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
def load_model(
    config: BackboneConfig, device: str, dtype: str, compiled: bool = False, fingerprint: str | None = None
) -> Model:
    """Return a network ready to run, see prepare(); it stays in the process for its next tasks.

    Raises:
        ConfigError: it cannot be loaded, or its fingerprint is not ``fingerprint``.
    """
    backbone = backbones.load(config)
    if fingerprint not in (None, backbone.fingerprint):
        raise ConfigError(
            f"backbone: {config.name} has the fingerprint {backbone.fingerprint} on this host and {fingerprint} where "
            "the run began: weights or transform differ; install the same on every host"
        )
    return Model(prepare(backbone, device=device, dtype=dtype, compiled=compiled), backbone.transform, backbone.size)


def prepare(backbone: Backbone, *, device: str, dtype: str = "float32", compiled: bool = False) -> Run:
    """Return a function from pictures, float32 [n, 3, h, w], to features, float32 [n, size], both in main memory.

    Args:
        backbone: the network; it is not changed.
        device: as torch names it, such as cpu or cuda:0.
        dtype: float32, bfloat16, or auto: bfloat16 where the device supports it directly and the vectors of a few
            test pictures keep a cosine of MIN_COSINE with those in float32.
        compiled: whether to use torch.compile, which takes a minute and needs a C++ compiler.

    Raises:
        ConfigError: another library runs the network, which torch can neither convert nor compile.
    """
    if next(backbone.module.parameters(), None) is None:
        if dtype == "bfloat16" or compiled:
            raise ConfigError("featurize: torch does not run this network; leave dtype and compile out")
        dtype = "float32"
    module = _fold(backbone.module).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = _runner(module, device, torch.float32, compiled)
    if dtype == "float32" or (dtype == "auto" and not _supports_bfloat16(device)):
        return run
    run_short = _runner(copy.deepcopy(module).to(torch.bfloat16), device, torch.bfloat16, compiled)
    if dtype == "bfloat16":
        return run_short
    pictures = torch.stack([backbone.transform(picture) for picture in _probes()])
    with torch.inference_mode():
        exact = backbone.module(pictures)
    is_close = torch.nn.functional.cosine_similarity(run_short(pictures), exact).min() >= MIN_COSINE
    return run_short if is_close else run


def _runner(module: torch.nn.Module, device: str, dtype: torch.dtype, compiled: bool) -> Run:
    call = torch.compile(module) if compiled else module

    def run(pictures: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            features: torch.Tensor = call(pictures.to(device, dtype, memory_format=torch.channels_last))
            return features.float().cpu()

    return run


def _fold(module: torch.nn.Module) -> torch.nn.Module:
    """Return a copy with each batch norm folded into the convolution before it, which saves a third of the time.

    Where the network cannot be traced, because its steps depend on its input, the copy is as the original.
    """
    try:
        return fuse(module)
    except Exception:
        return copy.deepcopy(module)


def _supports_bfloat16(device: str) -> bool:
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def _probes() -> list[Image.Image]:
    """Return test pictures with colored patterns, coarse to fine, always the same."""
    random = np.random.default_rng(0)
    patterns = [Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)) for side in _PROBES]
    return [picture.resize((256, 256), Image.Resampling.BICUBIC) for picture in patterns]
