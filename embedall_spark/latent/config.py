"""Configuration: the tables that a latent space is fitted to."""

from __future__ import annotations

from pydantic import Field

from embedall_spark import files
from embedall_spark.config import InputPath, Section
from embedall_spark.images.backbones import BackboneConfig
from embedall_spark.latent.fit.covariance import MAX_SIZE
from embedall_spark.latent.text.item_tokens import ItemTextConfig
from embedall_spark.latent.text.text_features import MAX_TOKENS

_NAME = r"^[\w.-]+$"


class ItemColumns(Section):
    """Columns of the items; a column that is not configured may be missing, except that of the ids."""

    id: str = Field("id", description="the column of the left side's ids")
    title: str = Field("title", description="the column of titles")
    tags: str = Field("tags", description="the column of tags: an array of text, or text")
    tags_separator: str = Field(",", min_length=1, description="what separates tags in text")
    label: str = Field("label", description="the column that tells what the items are of")


class LatentInput(Section):
    """Tables of the left and of the right side, and which of their rows belong together."""

    path: InputPath = Field(description="table of vectors: the left side, such as pictures")
    kind: str | None = Field(
        None, pattern=_NAME, description="kind that ids of the left side begin with; unset: the table's column kind"
    )
    items: InputPath | None = Field(
        None,
        description="titles and tags (id, title, tags) by ids of the left side: the right side is text; a Delta table, "
        "or a file whose name ends in .csv, .tsv, .json, .jsonl or .parquet; unset: the name of path with _metadata",
    )
    item_columns: ItemColumns = ItemColumns()
    text: ItemTextConfig = ItemTextConfig()
    min_items: int = Field(2, ge=1, description="words of fewer training items are ignored")
    most_words: int | None = Field(
        None, ge=1, le=MAX_TOKENS, description="keep only this many words, the most frequent; unset: all"
    )
    dense_words: int | None = Field(
        None, ge=1, le=MAX_SIZE,
        description="this many words, the most frequent, are each a dimension of the right side and can be suggested; "
        "rarer words get vectors learned from the left side's vectors, in the table output.table with _words appended; "
        f"unset: all words if they are at most {MAX_SIZE:,}, else as many as fit beside the learned vectors",
    )  # fmt: skip
    words: InputPath | None = Field(
        None, description="table of word vectors; titles are then composed of these as well as of the words themselves"
    )
    text_tower: BackboneConfig | None = Field(
        None,
        description="network whose text side makes the vectors of titles and tags, in place of learned words: "
        "open_clip:NAME or open_clip:FOLDER. Keys:",
    )
    right: InputPath | None = Field(None, description="table of vectors, the right side in place of text; needs pairs")
    right_kind: str | None = Field(
        None, pattern=_NAME, description="kind that ids of that table begin with; unset: the table's column kind"
    )
    pairs: InputPath | None = Field(None, description="table of pairs (left, right, weight) of ids of both tables")

    @property
    def items_table(self) -> str:
        """The table or file of titles and tags, if the right side is text."""
        return self.items or files.metadata_of(self.path)
