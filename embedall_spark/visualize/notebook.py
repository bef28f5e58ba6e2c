"""Pictures in a notebook."""

from __future__ import annotations

from io import BytesIO

import matplotlib.pyplot as plt


def show(png: bytes, width: float = 14) -> None:
    """Show a PNG, as this package's functions return them, below a notebook's cell; ``width`` is in inches."""
    picture = plt.imread(BytesIO(png))
    plt.figure(figsize=(width, width * picture.shape[0] / picture.shape[1]), layout="constrained")
    plt.imshow(picture)
    plt.axis("off")
    plt.show()
