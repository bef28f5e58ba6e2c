"""Counts the frames of a picture from its structure alone, never beyond a limit."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


def count(image: Image.Image, content: bytes, limit: int) -> int:
    """Return the number of frames of an open picture, at most ``limit`` + 1, without decoding any of them.

    Of a truncated file the frames that are there are counted; that it is truncated is for the decoder to say.
    """
    # Pillow counts the frames of these two formats by decoding one after the other.
    if image.format == "GIF":
        return _gif(content, limit)
    if image.format == "TIFF":
        return _tiff(content, limit)
    return min(int(getattr(image, "n_frames", 1)), limit + 1)


def _gif(content: bytes, limit: int) -> int:
    """Walk over the blocks (GIF89a, sections 15 to 27)."""
    frames, offset = 0, 13 + _color_table_size(content, 10)
    while frames <= limit and offset < len(content):
        kind = content[offset]
        if kind == 0x2C:
            frames += 1
            # The image descriptor, its color table and the minimum code size.
            offset += 10 + _color_table_size(content, offset + 9) + 1
        elif kind == 0x21:
            offset += 2
        else:
            # 0x3B ends the file, and anything else is no block.
            break
        while offset < len(content) and content[offset]:
            offset += 1 + content[offset]
        offset += 1
    return frames


def _color_table_size(content: bytes, offset: int) -> int:
    """Return the size in bytes of the color table that the flags at an offset announce."""
    flags = content[offset] if offset < len(content) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _tiff(content: bytes, limit: int) -> int:
    """Follow the chain of directories (TIFF 6.0, section 2; BigTIFF has 64-bit counts and offsets)."""
    order = "<" if content[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", content, 2)[0] == 43
    count, pointer, entry_bytes, first = ("Q", "Q", 20, 8) if big else ("H", "I", 12, 4)
    frames = 0
    try:
        offset = struct.unpack_from(order + pointer, content, first)[0]
        while offset and frames <= limit:
            entries = struct.unpack_from(order + count, content, offset)[0]
            frames += 1
            offset += struct.calcsize(order + count) + entry_bytes * entries
            offset = struct.unpack_from(order + pointer, content, offset)[0]
    except (struct.error, OverflowError):
        pass
    return frames
