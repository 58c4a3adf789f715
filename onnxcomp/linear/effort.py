"""How many samples and positions fitting looks at, and which layers are too large for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxcomp.cost import Dims, node_macs
from onnxcomp.linear.gram import CHECKED
from onnxcomp.linear.layers import Layer, has_known_pads
from onnxcomp.linear.least_squares import RIDGES, STEPS, pattern
from onnxcomp.linear.pairs import Pair
from onnxcomp.runtime import Feeds

# Samples that are run, as far as a model's multiplications and numbers allow.
MOST = 2048
LEAST = 8
RUN_WORK = 2e10
NUMBERS = 20_000_000
# Rows that are wanted in all: for each column, and at least; and positions of a sample, at least.
ROWS_PER_COLUMN = 5
ROWS = 2048
POSITIONS = 16
# A matrix of more columns takes too long to solve; all of them together, in multiplications.
COLUMNS = 4700
WORK = 2e11


def sample_limit(model: ir.Model, feeds: Feeds, shapes: dict[ir.Value, Dims]) -> int:
    """Return how many samples to run."""
    macs = sum(node_macs(node, shapes) or 0 for node in model.graph)
    numbers = sum(np.size(data) for data in feeds.values())
    affordable = min(RUN_WORK / max(macs, 1), NUMBERS / max(numbers, 1))
    return max(LEAST, min(MOST, int(affordable)))


def find_unsolvable(
    pairs: Sequence[Pair], samples: int, shapes: dict[ir.Value, Dims]
) -> dict[Pair, str]:
    """Return the reason for each layer that least squares are not for, or would take too long."""
    reasons, work = {}, 0.0
    costs = {pair: _work(pair, samples, shapes) for pair in pairs}
    for pair in sorted(pairs, key=lambda each: costs[each]):
        if not has_known_pads(pair.layer.node):
            reasons[pair] = "its pads are not given as numbers"
        elif pair.layer.columns > COLUMNS:
            reasons[pair] = f"{pair.layer.columns} columns are more than {COLUMNS}"
        elif work + costs[pair] > WORK:
            reasons[pair] = "fitting it takes too long"
        else:
            work += costs[pair]
    return reasons


def _work(pair: Pair, samples: int, shapes: dict[ir.Value, Dims]) -> float:
    """Return how many multiplications the sums and the systems take."""
    layer, dims = pair.layer, shapes.get(pair.wanted, ())
    positions = int(np.prod(dims)) // max(dims[layer.axis], 1) if len(dims) > 1 else ROWS
    rows = samples * min(positions, position_count(layer, samples))
    sums = layer.columns * (layer.columns + layer.rows) * rows
    systems = 4.0 * layer.columns**2 * (layer.columns + layer.rows)
    if pattern(layer.matrices) is not None:
        systems = float(len(RIDGES) * STEPS * layer.rows * layer.columns**2)
    return layer.groups * (sums + systems)


def position_count(layer: Layer, samples: int) -> int:
    """Return how many positions of each sample give enough rows."""
    wanted = max(ROWS_PER_COLUMN * layer.columns, ROWS)
    used = max(1, samples - samples // CHECKED)
    return max(POSITIONS, -(-wanted // used))
