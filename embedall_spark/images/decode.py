"""Encoded pictures to RGB, and the reason why one cannot be used. No Spark."""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import Field

from embedall_spark.config import Section
from embedall_spark.images import frame_count, svg

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_BEGINNINGS = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|GIF8[79]a|BM|II[*+]\x00|MM\x00[*+]", re.DOTALL)
# What turns a picture upright, by its EXIF orientation (Exif 2.32, section 4.6.4, tag 274).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 274
_FROM_16_BITS = ((np.arange(1 << 16) * 255 + 32767) // 65535).astype(np.uint8)

# Pillow warns of what it makes good, in threads, where warnings cannot be silenced around a call.
warnings.filterwarnings("ignore", module=r"PIL\.")


class Limits(Section):
    """The largest picture that is decoded; others are refused."""

    max_bytes: int = Field(20 << 20, ge=1, le=1 << 30, description="bytes of the file")
    # Beyond the upper bound Pillow refuses to open the file.
    max_pixels: int = Field(
        100_000_000, ge=1, le=178_956_970, description="width times height, by the file's header, before decoding"
    )
    max_frames: int = Field(1000, ge=1, description="frames of an animation, or pages; the first one is embedded")
    svg: bool = Field(
        True, description="whether SVG is drawn, with the extra demo; false for strangers' files, which may take long"
    )


class Refused(Exception):
    """A picture that cannot be used; its text is the reason."""


def decode(content: bytes, limits: Limits) -> Image.Image:
    """Return a picture in mode RGB, upright, transparent parts on white.

    JPEG, PNG, WebP, GIF, BMP and TIFF, known by their content; of several frames or pages the first. Greyscale of 16
    bits is scaled to 8; wider numbers by their own range. Colour profiles are not applied. SVG is drawn at 256 x 256
    pixels where resvg-py is installed.

    Raises:
        Refused: it is empty, not an image, truncated, broken, or over a limit; nothing else is raised.
    """
    if not content:
        raise Refused("empty")
    if len(content) > limits.max_bytes:
        raise Refused(f"{len(content)} bytes, over limits.max_bytes={limits.max_bytes}")
    try:
        if svg.is_svg(content):
            content = _drawn(content, limits)
        return _decode(content, limits)
    except Refused:
        raise
    except svg.CannotDraw as error:
        raise Refused(str(error)) from None
    except MemoryError:
        raise Refused("needs more memory than there is") from None
    except Exception as error:
        raise Refused(_why(content, error)) from None


def _drawn(content: bytes, limits: Limits) -> bytes:
    if not limits.svg:
        raise Refused("SVG, which limits.svg=false refuses")
    return svg.draw(content)


def _decode(content: bytes, limits: Limits) -> Image.Image:
    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        width, height = image.size
        if width * height > limits.max_pixels:
            raise Refused(f"{width} x {height} pixels, over limits.max_pixels={limits.max_pixels}")
        if frame_count.count(image, content, limits.max_frames) > limits.max_frames:
            raise Refused(f"more frames than limits.max_frames={limits.max_frames}")
        # Pillow turns a TIFF by itself when it is loaded.
        turn = None if image.format == "TIFF" else _UPRIGHT.get(_orientation(image))
        rgb = _rgb(image)
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        # Broken metadata do not make a picture unusable.
        return 1
    return found if isinstance(found, int) else 1


def _rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_grey(image)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGB", layer.size, "white")
    white.paste(layer, mask=layer.getchannel("A"))
    return white


def _grey(image: Image.Image) -> NDArray[np.uint8]:
    """Return grey values of more than 8 bits as uint8 [height, width]."""
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise Refused("grey values are not finite")
    if image.mode != "F" and low >= 0 and high < 1 << 16:
        grey = _FROM_16_BITS[values]
        hidden = image.info.get("transparency")
        return np.where(values == hidden, np.uint8(255), grey) if isinstance(hidden, int) else grey
    if image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    scaled: NDArray[np.uint8] = np.rint((values - low) * (255 / ((high - low) or 1))).astype(np.uint8)
    return scaled


def _why(content: bytes, error: Exception) -> str:
    """Return the reason that stands behind an exception of a codec."""
    text = " ".join(str(error).split()).replace(": ", ", ")
    if isinstance(error, Image.DecompressionBombError):
        found = re.search(r"\d+", text)
        return f"{found[0] if found else 'far too many'} pixels, over limits.max_pixels"
    if isinstance(error, UnidentifiedImageError):
        if _BEGINNINGS.match(content) is None:
            return "not an image"
        return "header is truncated, broken, without pixels or of an unsupported kind"
    cut = content[:4] == b"RIFF" and int.from_bytes(content[4:8], "little") > len(content) - 8
    if cut or isinstance(error, EOFError) or "truncated" in text.lower():
        return "truncated"
    return f"broken ({text[:200] or type(error).__name__})"
