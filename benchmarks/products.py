"""Photos of products with their titles and attributes, as the two sides of benchmarks/latent.py."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from embedall_spark import user_cache

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Features = dict[str, NDArray[np.float32]]

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
PHOTOS = SHARED / "images" / "fashion_products_4k"
WEIGHTS = {
    "mobilenet_v2": SHARED / "weights" / "mobilenet_v2_tv_v1_features.fp16.pt",
    "squeezenet1_1": SHARED / "weights" / "squeezenet1_1.fp16.pt",
}
ATTRIBUTES = ("gender", "masterCategory", "subCategory", "articleType", "baseColour", "season", "year", "usage")
# Blocks of mobilenet_v2 that end a stage: their means hold colors and textures, which the last one no longer has.
STAGES = (1, 3, 6, 10, 13, 16)
_BATCH = 32


class Product(NamedTuple):
    """One row of the table."""

    id: str
    title: str
    attributes: dict[str, str]


def products() -> list[Product]:
    """Return the products in the order of their ids."""
    with (PHOTOS / "products.tsv").open(encoding="utf-8") as lines:
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        items = [Product(row["id"], row["title"], {name: row[name] for name in ATTRIBUTES}) for row in rows]
    return sorted(items)


def features(ids: list[str]) -> Features:
    """Return each network's features, float32 [n, d]: ``mobilenet``, ``squeezenet`` and ``stage1`` to ``stage16``.

    Some minutes on 2 cores, once; kept in our cache folder.
    """
    cache = (user_cache.folder("benchmarks") or Path()) / "latent-products.npz"
    if cache.exists():
        cached = np.load(cache)
        if cached["ids"].tolist() == ids:
            return {name: cached[name] for name in cached.files if name != "ids"}
    matrices = _compute(ids)
    hidden = cache.with_suffix(f".{os.getpid()}.npz")
    np.savez(hidden, ids=np.array(ids), **matrices)
    hidden.replace(cache)
    return matrices


def picture(name: str) -> Path:
    """Return a product's photo."""
    return PHOTOS / "images" / f"{name}.jpg"


def _compute(ids: list[str]) -> Features:
    import torch
    from PIL import Image

    from embedall_spark.images import backbones

    torch.set_num_threads(2)
    mobile, squeeze = (
        backbones.load(backbones.BackboneConfig(name=name, weights=str(file))) for name, file in WEIGHTS.items()
    )
    batches: dict[str, list[NDArray[np.float32]]] = {}

    def keep(name: str, values: torch.Tensor) -> None:
        batches.setdefault(name, []).append(values.numpy())

    for stage in STAGES:
        mobile.module.features[stage].register_forward_hook(
            lambda _, __, out, name=f"stage{stage}": keep(name, out.mean((2, 3)))
        )
    with torch.inference_mode():
        for start in range(0, len(ids), _BATCH):
            photos = [Image.open(picture(name)).convert("RGB") for name in ids[start : start + _BATCH]]
            batch = torch.stack([mobile.transform(photo) for photo in photos])
            keep("mobilenet", mobile.module(batch))
            keep("squeezenet", squeeze.module(batch))
    return {name: np.concatenate(parts) for name, parts in batches.items()}
