"""What layers are multiplied with over a few samples: H = E[x x^T]."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.graph import Array
from onnxcomp.linear.layers import Layer
from onnxcomp.linear.taps import few, tap

# Samples that are looked at, every fourth of which is for the check; positions of each, of which
# the small matrices of groups need fewer; and bytes of H that are held at a time.
SAMPLES = 8
CHECKED = 4
POSITIONS = 256
GROUPED_POSITIONS = 96
HELD = 500_000_000
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


def look_at(
    model: ir.Model,
    layers: Sequence[Layer],
    samples: Samples,
    is_known: Callable[[Layer], bool] = lambda _: False,
) -> Iterator[tuple[Layer, Seen | None]]:
    """Yield layers with what they are multiplied with, or None where nothing finite was.

    `model` holds values of the layers' names; what is known of some layers is held at a time. Where
    all of these are known already, by `is_known`, they come with None and nothing is run.
    """
    held = sum(np.dtype(np.float64).itemsize * each.groups * each.columns**2 for each in layers)
    groups, limit = min(len(layers), -(-held // HELD)), few(model, samples, SAMPLES)
    for start in range(groups):
        group = layers[start::groups]
        found: list[Seen | None] = [None] * len(group)
        if all(map(is_known, group)):
            yield from zip(group, found, strict=True)
            continue
        names = [layer.source.name or "" for layer in group]
        for index, name, data in tap(model, names, samples, limit):
            for place, layer in enumerate(group):
                if names[place] == name:
                    found[place] = _with_rows(found[place], layer, index, data)
        yield from zip(group, found, strict=True)


def _with_rows(seen: Seen | None, layer: Layer, index: int, data: Array) -> Seen | None:
    count = POSITIONS if layer.groups == 1 else GROUPED_POSITIONS
    rows = layer.inputs_at(data, count, np.random.default_rng((SEED, index)))
    if not rows.size or not np.isfinite(rows).all():
        return seen
    if seen is not None and index % CHECKED == CHECKED - 1:
        seen.rows.append(rows)
        return seen
    product = rows.transpose(0, 2, 1) @ rows / np.float32(rows.shape[1])
    if seen is None:
        return Seen(product.astype(np.float64))
    seen.gram += product
    return seen
