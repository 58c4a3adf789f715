"""Seeded pictures in files, for tests of what reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def pixels(high: int, wide: int, channels: int = 3, seed: int = 0) -> Pixels:
    """Return smooth colours with noise, `[high, wide, channels]` or `[high, wide]` for one."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:high, 0:wide]
    smooth = (rows * 7 + columns * 3)[..., None] + rng.integers(0, 60, (high, wide, channels))
    found: Pixels = (smooth % 256).astype(np.uint8)
    return found[..., 0] if channels == 1 else found


def picture(path: Path, high: int, wide: int, channels: int = 3, seed: int = 0) -> Pixels:
    """Write such an image without loss, and return its pixels."""
    data = pixels(high, wide, channels, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(data).save(path)
    return data
