"""What kernels are multiplied with, at a few positions of each sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxcomp.graph import Array
from onnxcomp.linear.layers import Layer
from onnxcomp.passes.factorize._moments import SEED
from onnxcomp.runtime import Feeds, Session

# Rows of each layer in all, and of a sample at least; layers whose inputs are held at a time.
ROWS, POSITIONS = 1536, 16
HELD = 8


def rows_of(model: ir.Model, layers: Sequence[Layer], feeds: Sequence[Feeds]) -> dict[Layer, Array]:
    """Return float32 rows [positions, columns] for the layers that have finite ones."""
    found: dict[Layer, list[Array]] = {}
    used = feeds[:: max(1, len(feeds) * POSITIONS // ROWS)]
    count = max(POSITIONS, -(-ROWS // max(len(used), 1)))
    for start in range(0, len(layers), HELD):
        part = layers[start : start + HELD]
        session = Session(model, taps=[layer.source.name or "" for layer in part], optimize=True)
        for index, sample in enumerate(used):
            values = {**sample, **session.run(sample)}
            for layer in part:
                data = values[layer.source.name or ""]
                rows = layer.inputs_at(data, count, np.random.default_rng((SEED, index)))[0]
                found.setdefault(layer, []).append(rows[np.isfinite(rows).all(axis=1)])
    return {layer: np.concatenate(rows) for layer, rows in found.items() if sum(map(len, rows))}
