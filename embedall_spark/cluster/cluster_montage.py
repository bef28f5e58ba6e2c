"""A montage of clusters: the pictures nearest to each centre."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedall_spark.images import thumbnails
from embedall_spark.visualize import montage
from embedall_spark.visualize.montage import Tile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyspark.sql import DataFrame

    from embedall_spark.sources.image_limits import Limits


def draw(
    members: Mapping[int, Sequence[str]],
    sizes: Mapping[int, int],
    pictures: DataFrame,
    limits: Limits,
    called: Mapping[str, str],
) -> bytes:
    """Return a PNG with a row for each cluster.

    Args:
        members: the ids to show of each cluster, at most thumbnails.MAX_IDS in all.
        sizes: how many ids each cluster has.
        pictures: IMAGES of these ids, or more.
        limits: of what is decoded.
        called: captions of ids; others are captioned by their id.
    """
    small = thumbnails.thumbnails_by_id(pictures, [name for some in members.values() for name in some], limits)
    rows = [
        (f"Cluster {at}: {sizes[at]:,} ids", [Tile(small.get(name), called.get(name, name)) for name in some])
        for at, some in members.items()
    ]
    return montage.draw(rows)
