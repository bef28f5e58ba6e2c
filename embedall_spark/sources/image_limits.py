"""How large a picture may be that is decoded: part of the configuration of every source of pictures."""

from __future__ import annotations

from pydantic import Field

from embedall_spark.config import Section


class Limits(Section):
    """The largest picture that is decoded; larger ones are refused."""

    max_bytes: int = Field(20 << 20, ge=1, le=1 << 30, description="largest file, in bytes")
    # Beyond the upper bound Pillow refuses to open the file.
    max_pixels: int = Field(
        100_000_000, ge=1, le=178_956_970, description="width times height, by the file's header, before decoding"
    )
    max_frames: int = Field(1000, ge=1, description="frames of an animation, or pages; the first one is embedded")
    svg: bool | None = Field(
        None,
        description="whether SVG drawings are drawn (needs the extra demo); unset: only where the source asks for "
        "them, by format openmoji or by svg among the suffixes",
    )
