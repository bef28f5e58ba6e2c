"""A montage of clusters: the pictures nearest to each center."""

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
    titles: Mapping[str, str],
) -> bytes:
    """Return a PNG with a row for each cluster.

    Args:
        members: the ids to show of each cluster, at most thumbnails.MAX_IDS in all.
        sizes: how many ids each cluster has.
        pictures: IMAGES of these ids, or more.
        limits: which pictures are too large to be decoded.
        titles: captions by id; an id without a title is its own caption.
    """
    small = thumbnails.thumbnails_by_id(pictures, [name for ids in members.values() for name in ids], limits)
    rows = [
        (f"Cluster {cluster}: {sizes[cluster]:,} ids", [Tile(small.get(name), titles.get(name, name)) for name in ids])
        for cluster, ids in members.items()
    ]
    return montage.draw(rows)
