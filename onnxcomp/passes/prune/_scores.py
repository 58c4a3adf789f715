"""What an element of a weight is worth, and how zeros are shared out over layers."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from onnxcomp.graph import Array

# Those that need samples, and all.
FROM_SAMPLES = ("wanda", "sparsegpt")
CRITERIA = ("auto", "l1", "l2", *FROM_SAMPLES, "random")


def scores_of(criterion: str, cube: Array, power: Array | None, name: str, seed: int) -> Array:
    """Return the worth of each element of a weight [groups, outputs, taps, inputs].

    |w|, w^2, or w^2 E[x^2] with `power` = E[x^2], that broadcasts to the weight: the square of
    |w| rms(x) (Sun et al., 2024, arXiv 2306.11695), so that sums over several elements add up to
    an error. sparsegpt falls back to that where it has no order of columns. `random` draws by
    `seed` and the layer's `name`.
    """
    wide = np.abs(cube.astype(np.float64))
    if criterion == "random":
        return np.random.default_rng((seed, zlib.crc32(name.encode()))).random(cube.shape)
    if criterion == "l1":
        return wide
    if criterion in FROM_SAMPLES and power is not None:
        return np.asarray(np.square(wide) * power)
    return np.square(wide)


def share_out(scores: Sequence[Array], sizes: Sequence[int], ratio: float) -> list[int]:
    """Return how many units of each layer to zero, by one threshold over all layers.

    `scores` are those of a layer's units, in which `sizes` elements each; a unit counts by its
    share of the layer's sum per element, which is the relative error that it costs. At most
    (1 + ratio) / 2 of a layer goes.
    """
    worth, layer, spans = [], [], []
    for index, (units, size) in enumerate(zip(scores, sizes, strict=True)):
        most = int(units.size * (1 + ratio) / 2)
        least = np.sort(units.reshape(-1))[:most]
        worth.append(least / max(float(units.sum()), 1e-300) / size)
        layer.append(np.full(most, index))
        spans.append(np.full(most, size))
    order = np.argsort(np.concatenate(worth), kind="stable")
    total = sum(units.size * size for units, size in zip(scores, sizes, strict=True))
    filled = np.cumsum(np.concatenate(spans)[order])
    taken = int(np.searchsorted(filled, ratio * total + 1e-6, side="right"))
    counts = np.bincount(np.concatenate(layer)[order[:taken]], minlength=len(scores))
    return [int(count) for count in counts]
