"""How many frames a picture has, from its structure alone and never counting beyond a limit."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


def count(image: Image.Image, content: bytes, limit: int) -> int:
    """Return the number of frames of an opened picture, at most ``limit`` + 1, without decoding any of them.

    A picture that is cut off has those that are there; it is for the decoder to say so.
    """
    # Pillow counts these two by going through them one by one, decoding what it meets.
    if image.format == "GIF":
        return _gif(content, limit)
    if image.format == "TIFF":
        return _tiff(content, limit)
    return min(int(getattr(image, "n_frames", 1)), limit + 1)


def _gif(content: bytes, limit: int) -> int:
    """Walk over the blocks (GIF89a, sections 15 to 27)."""
    found, at = 0, 13 + _colours(content, 10)
    while found <= limit and at < len(content):
        kind = content[at]
        if kind == 0x2C:
            found += 1
            # The descriptor, its colours and the first code's length.
            at += 10 + _colours(content, at + 9) + 1
        elif kind == 0x21:
            at += 2
        else:
            # 0x3B ends the file, and anything else is none of it.
            break
        while at < len(content) and content[at]:
            at += 1 + content[at]
        at += 1
    return found


def _colours(content: bytes, at: int) -> int:
    """Return the bytes of the table of colours that the flags at a place announce."""
    flags = content[at] if at < len(content) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _tiff(content: bytes, limit: int) -> int:
    """Follow the chain of directories (TIFF 6.0, section 2; BigTIFF has wider numbers)."""
    order = "<" if content[:2] == b"II" else ">"
    wide = struct.unpack_from(f"{order}H", content, 2)[0] == 43
    number, entry, place = ("Q", 20, 8) if wide else ("H", 12, 4)
    found = 0
    try:
        at = struct.unpack_from(f"{order}{'Q' if wide else 'I'}", content, place)[0]
        while at and found <= limit:
            entries = struct.unpack_from(f"{order}{number}", content, at)[0]
            found += 1
            at += struct.calcsize(f"{order}{number}") + entry * entries
            at = struct.unpack_from(f"{order}{'Q' if wide else 'I'}", content, at)[0]
    except (struct.error, OverflowError):
        pass
    return found
