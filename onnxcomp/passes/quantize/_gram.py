"""What layers are multiplied with over a few samples: H = E[x x^T]."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.graph import Array
from onnxcomp.passes.quantize._layers import Layer
from onnxcomp.passes.quantize._taps import tap

# Samples that are looked at, and positions of each; every fourth sample is for the check.
SAMPLES = 8
POSITIONS = 256
CHECKED = 4
SEED = 0


@dataclass
class Seen:
    """What a layer is multiplied with: H [groups, columns, columns] and rows to check on.

    `rows` [groups, positions, columns] are of other samples than H, if there were enough.
    """

    gram: Array
    rows: list[Array] = field(default_factory=list)

    def error(self, error: Array) -> float:
        """Return E[|e x|^2] over the rows to check on, for all rows e [groups, rows, columns]."""
        if not self.rows:
            return float(((error @ self.gram) * error).sum())
        total = 0.0
        for rows in self.rows:
            product = error.astype(np.float32) @ rows.transpose(0, 2, 1)
            total += float(np.square(product, dtype=np.float64).sum()) / rows.shape[1]
        return total / len(self.rows)


def look_at(model: ir.Model, layers: Sequence[Layer], samples: Samples) -> list[Seen | None]:
    """Return what layers are multiplied with, or None where nothing finite was."""
    found: list[Seen | None] = [None] * len(layers)
    by_source: dict[str, list[int]] = defaultdict(list)
    for place, layer in enumerate(layers):
        by_source[layer.source.name or ""].append(place)
    for index, name, data in tap(model, list(by_source), samples, SAMPLES):
        for place in by_source[name]:
            rng = np.random.default_rng((SEED, index))
            rows = layers[place].inputs_at(data, POSITIONS, rng)
            if rows.size and np.isfinite(rows).all():
                found[place] = _with_rows(found[place], rows, check=index % CHECKED == CHECKED - 1)
    return found


def _with_rows(seen: Seen | None, rows: Array, *, check: bool) -> Seen:
    if seen is not None and check:
        seen.rows.append(rows)
        return seen
    product = rows.transpose(0, 2, 1) @ rows / np.float32(rows.shape[1])
    if seen is None:
        return Seen(product.astype(np.float64))
    seen.gram += product
    return seen
