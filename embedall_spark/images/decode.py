"""Decodes encoded pictures to RGB, or says why one cannot be used. No Spark."""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from embedall_spark.images import frame_count, svg

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedall_spark.sources.image_limits import Limits

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_SIGNATURES = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|GIF8[79]a|BM|II[*+]\x00|MM\x00[*+]", re.DOTALL)
# The operation that turns a picture upright, by its EXIF orientation (Exif 2.32, section 4.6.4, tag 274).
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
# Every scan of a progressive JPEG goes over all of its pixels. Encoders write about ten; a file of a few kB can hold
# thousands. The product of both is bounded, so that small pictures may have as many as they like.
_MAX_SCANS = 25
_START_OF_SCAN = b"\xff\xda"

# Pillow warns about what it corrects, in threads, where warnings cannot be silenced around a call.
warnings.filterwarnings("ignore", module=r"PIL\.")


class BadImage(Exception):
    """A picture that cannot be used; its text is the reason."""


def decode(content: bytes, limits: Limits) -> Image.Image:
    """Return a picture in mode RGB, upright, transparent parts on white.

    JPEG, PNG, WebP, GIF, BMP and TIFF, recognized by their content; of several frames or pages the first. Gray of 16
    bits is scaled to 8 bits, wider values by their own range. Color profiles are not applied. SVG is drawn at 256 x 256
    pixels where ``limits.svg`` allows it and resvg-py is installed.

    Raises:
        BadImage: it is empty, not an image, truncated, broken, or over a limit; nothing else is raised.
    """
    if not content:
        raise BadImage("empty")
    if len(content) > limits.max_bytes:
        raise BadImage(f"{len(content)} bytes, over limits.max_bytes={limits.max_bytes}")
    try:
        if svg.is_svg(content):
            if not limits.svg:
                raise BadImage("an SVG drawing, which is drawn only with limits.svg=true")
            content = svg.draw(content)
        return _decode(content, limits)
    except BadImage:
        raise
    except svg.SvgError as error:
        raise BadImage(str(error)) from None
    except MemoryError:
        raise BadImage("decoding needs more memory than there is") from None
    except Exception as error:
        raise BadImage(_reason(content, error)) from None


def _decode(content: bytes, limits: Limits) -> Image.Image:
    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        width, height = image.size
        if width * height > limits.max_pixels:
            raise BadImage(f"{width} x {height} pixels, over limits.max_pixels={limits.max_pixels}")
        if frame_count.count(image, content, limits.max_frames) > limits.max_frames:
            raise BadImage(f"more frames than limits.max_frames={limits.max_frames}")
        if image.info.get("progressive"):
            scans = content.count(_START_OF_SCAN)
            if width * height * scans > limits.max_pixels * _MAX_SCANS:
                raise BadImage(f"a progressive JPEG of {width} x {height} pixels in {scans} scans, too slow to decode")
        # Pillow itself turns a TIFF upright when it loads it.
        turn = None if image.format == "TIFF" else _UPRIGHT.get(_orientation(image))
        rgb = _rgb(image)
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        # Broken metadata do not make a picture unusable.
        return 1
    return orientation if isinstance(orientation, int) else 1


def _rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_gray(image)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGB", layer.size, "white")
    white.paste(layer, mask=layer.getchannel("A"))
    return white


def _gray(image: Image.Image) -> NDArray[np.uint8]:
    """Return gray values of more than 8 bits as uint8 [height, width]."""
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise BadImage("gray values are not finite")
    if image.mode != "F" and low >= 0 and high < 1 << 16:
        gray = _FROM_16_BITS[values]
        transparent = image.info.get("transparency")
        return np.where(values == transparent, np.uint8(255), gray) if isinstance(transparent, int) else gray
    if image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    scaled: NDArray[np.uint8] = np.rint((values - low) * (255 / ((high - low) or 1))).astype(np.uint8)
    return scaled


def _reason(content: bytes, error: Exception) -> str:
    """Return the reason behind an exception of a codec, in words for the user."""
    text = " ".join(str(error).split()).replace(": ", ", ")
    if isinstance(error, Image.DecompressionBombError):
        pixels = re.search(r"\d+", text)
        return f"{pixels[0] if pixels else 'far too many'} pixels, over limits.max_pixels"
    if isinstance(error, UnidentifiedImageError):
        if _SIGNATURES.match(content):
            return "header is truncated, broken, without pixels or of an unsupported kind"
        return "not an image, it looks like an HTML page" if svg.is_html(content) else "not an image"
    cut = content[:4] == b"RIFF" and int.from_bytes(content[4:8], "little") > len(content) - 8
    if cut or isinstance(error, EOFError) or "truncated" in text.lower():
        return "truncated"
    return f"broken ({text[:200] or type(error).__name__})"
