"""Whether ONNX Runtime multiplies by weights of a few bits faster than by floats, by measuring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.cost import concrete_shapes
from onnxcomp.graph import make_tensor
from onnxcomp.keeping import kept
from onnxcomp.latency import measure_in_turns
from onnxcomp.passes.quantize._block_forms import Writing, has_nbits, write_nbits
from onnxcomp.passes.quantize._block_grid import BlockFormat
from onnxcomp.passes.quantize._blocks import find_blocks
from onnxcomp.passes.quantize._constants import Site, as_site
from onnxcomp.runtime import Session

# What an operator has to gain over the float product to be chosen, and how long each is timed.
WORTH = 1.05
SECONDS = 0.2
# Only the shapes with the most work are timed.
SHAPES = 4

# Positions, columns and rows of a product.
Shape = tuple[int, int, int]


def nbits_is_faster(
    model: ir.Model, sites: Sequence[Site], samples: Samples, fmt: BlockFormat
) -> bool:
    """Say whether the model's largest products run faster as MatMulNBits than in float."""
    feeds = next(iter(samples), None)
    if feeds is None:
        return False
    shapes = concrete_shapes(model, feeds)
    found: Counter[Shape] = Counter()
    for site in filter(has_nbits, sites):
        for node in site.readers:
            dims = shapes.get(node.inputs[0]) if node.inputs[0] is not None else None
            if dims:
                found[int(np.prod(dims[:-1])), site.columns, site.rows] += 1
    settings = ("nbits", sorted(found.items()), fmt)
    # Timed once: a run that goes on keeps the form that it began with.
    times = kept(sites[0].weight, settings, lambda: (np.array(_times(found, fmt)),))
    before, after = times[0]
    return bool(before > WORTH * after)


def _times(found: Counter[Shape], fmt: BlockFormat) -> tuple[float, float]:
    """Return the milliseconds of the largest products in float, and as MatMulNBits."""
    before = after = 0.0
    for shape in _largest(found):
        float_ms, nbits_ms = _timed(shape, fmt)
        before, after = before + found[shape] * float_ms, after + found[shape] * nbits_ms
    return before, after


def _largest(found: Counter[Shape]) -> Iterable[Shape]:
    return sorted(found, key=lambda shape: (-np.prod(shape) * found[shape], shape))[:SHAPES]


def _timed(shape: Shape, fmt: BlockFormat) -> tuple[float, float]:
    positions, columns, rows = shape
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((columns, rows), dtype=np.float32)
    plain, packed = (_product(weight, positions) for _ in range(2))
    site = as_site(packed.graph.initializers["w"], frozenset({"MatMul"}))
    assert site is not None
    blocks = find_blocks(site.matrix, fmt, fitted=False)
    assert blocks is not None
    write_nbits(Writing(site, blocks, set()), packed)
    del packed.graph.initializers["w"]
    pair = [Session(each, optimize=True) for each in (plain, packed)]
    feeds = {"x": rng.standard_normal((positions, columns), dtype=np.float32)}
    found = measure_in_turns(pair[0], pair[1], [feeds], SECONDS)
    return found.before_ms, found.after_ms


def _product(weight: np.ndarray, positions: int) -> ir.Model:
    floats, (columns, rows) = ir.TensorType(ir.DataType.FLOAT), weight.shape
    x = ir.Value(name="x", shape=ir.Shape((positions, columns)), type=floats)
    w = ir.Value(
        name="w",
        shape=ir.Shape(weight.shape),
        type=floats,
        const_value=make_tensor(weight, "w"),
    )
    node = ir.Node("", "MatMul", [x, w])
    y = node.outputs[0]
    y.name, y.shape, y.type = "y", ir.Shape((positions, rows)), floats
    graph = ir.Graph(
        [x], [y], nodes=[node], initializers=[w], opset_imports={"": 17}, name="product"
    )
    return ir.Model(graph, ir_version=8)
