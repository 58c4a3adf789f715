"""The strategy: which steps follow each other, branches, and what is returned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper

from onnxcomp.graph import Array
from random_graphs.builder import BATCH, CODES, Graph, Item, Make, Shape, between, numbered
from random_graphs.elementwise import (
    arithmetic,
    cast,
    clip,
    compare,
    dropout,
    fraction,
    integers,
    jump,
    logic,
    root,
    scale,
    smooth,
    where,
)
from random_graphs.layouts import (
    arg_max,
    concat,
    depth_to_space,
    expand,
    expand_by_shape,
    flatten,
    gather,
    padding,
    reduction,
    reshape,
    reshape_by_shape,
    slicing,
    splitting,
    squeeze,
    tile,
    transpose,
    unsqueeze,
)
from random_graphs.products import batch_norm, convolution, normalization, pooling, product
from random_graphs.spelled_out import spelled_out
from random_graphs.undone import resize, there_and_back

OPSETS = (17, 13, 11, 18, 20, 15, 12, 23, 9)
MAX_NODES = 30
MEAN_STEPS = 15
INPUT_BOUND = 2.0
IMAGES: tuple[Shape, ...] = ((BATCH, 4, 6, 6), (1, 4, 4, 4), (1, 4, 5), (1, 2, 5, 5))
INPUTS: tuple[Shape, ...] = (
    *IMAGES,
    (BATCH, 6),
    (2, 3, 4),
    (BATCH, 3, 4),
    (),
    (1,),
    (6, 4),
)


@dataclass(frozen=True)
class Drawn:
    """A model, and how far each output may be off by rounding alone."""

    proto: onnx.ModelProto
    noise: dict[str, float]

    def feeds(self, batch: int, seed: int) -> dict[str, Array]:
        """Return random inputs of some batch size."""
        rng = np.random.default_rng([batch, seed])
        found: dict[str, Array] = {}
        for info in self.proto.graph.input:
            kind = info.type.tensor_type
            shape = [batch if dim.dim_param else dim.dim_value for dim in kind.shape.dim]
            if kind.elem_type == onnx.TensorProto.FLOAT:
                data = rng.uniform(-INPUT_BOUND, INPUT_BOUND, shape)
                data = np.where(rng.random(shape) < 0.1, np.round(data), data)  # zeros, and -0.0
                found[info.name] = np.asarray(data, np.float32)
            elif kind.elem_type == onnx.TensorProto.INT64:
                found[info.name] = np.asarray(rng.integers(-3, 4, shape), np.int64)
            else:
                found[info.name] = np.asarray(rng.integers(0, 2, shape), np.bool_)
        return found


def branch(g: Graph) -> None:
    """An If, of a constant or computed condition, whose branches capture and may be trivial."""
    if g.depth >= 2:
        return
    x = g.find(lambda item: True)
    condition = _condition(g)
    if x is None or condition is None:
        return
    bodies: list[onnx.GraphProto] = []
    ends: list[Item] = []
    for side in ("else", "then"):
        body = Graph(
            g.draw, g.opset, g.rng, numbered(f"{x.name}_{g.depth}_"), [],
            (*g.outer, *g.items), depth=g.depth + 1,
        )  # fmt: skip
        if bodies and g.flip():  # computes what the other one does, and then something else
            body.nodes += bodies[0].node
            body.weights += bodies[0].initializer
            body.names = numbered(f"{x.name}_{g.depth}_e")
            end = body.add("Neg", ends[:1], x.shape, bound=ends[0].bound, noise=ends[0].noise)
        else:
            for _ in range(g.number(0, 3)):
                g.pick(INNER)(body)
            same = [item for item in body.items if item.shape == x.shape and item.kind == "f"]
            end = same[-1] if same else None
        if end is None:
            end = body.add("Identity", [x], x.shape, bound=x.bound, noise=x.noise)
        assert end is not None
        ends.append(end)
        info = helper.make_tensor_value_info(end.name, CODES["f"], None)
        bodies.append(helper.make_graph(body.nodes, side, [], [info], body.weights))
    bound, noise = max(e.bound for e in ends), max(e.noise for e in ends)
    g.add("If", [condition], x.shape, bound=bound, noise=noise,
          else_branch=bodies[0], then_branch=bodies[1])  # fmt: skip


def _condition(g: Graph) -> Item | None:
    if g.flip():
        return g.constant(np.array(g.flip()))
    flag = g.find(lambda item: item.shape == (), "b")
    if flag is not None:
        return flag
    x = g.find(lambda item: item.noise == 0 and item.kind == "f" and 0 not in item.shape)
    if x is None:
        return None
    (name,) = g.node("ReduceMax", [x], keepdims=0)
    top = Item(name, "f", (), x.bound)
    zero = g.constant(np.array(g.pick([0.0, 0.5]), np.float32))
    return g.add("Greater", [top, zero], (), kind="b")


INNER: tuple[Make, ...] = (smooth, smooth, arithmetic, clip, dropout, branch, reshape, convolution)
STEPS: tuple[Make, ...] = (
    smooth, arithmetic, convolution, product, batch_norm, reshape, transpose, clip, pooling,
    normalization, slicing, concat, splitting, squeeze, unsqueeze, gather, padding, expand, tile,
    flatten, reduction, cast, compare, where, logic, integers, arg_max, jump, root, dropout,
    reshape_by_shape, expand_by_shape, branch, depth_to_space, there_and_back, branch,
    resize, fraction, spelled_out, spelled_out,
)  # fmt: skip
# Steps that meet in a rewrite: the second reads the result of the first.
PAIRS: tuple[tuple[Make, Make], ...] = (
    (convolution, batch_norm), (convolution, scale), (scale, convolution),
    (batch_norm, convolution), (convolution, scale), (convolution, batch_norm),
    (scale, convolution), (product, scale), (padding, convolution), (padding, pooling),
    (convolution, smooth), (product, scale), (product, arithmetic), (product, batch_norm),
    (batch_norm, smooth), (clip, clip), (clip, smooth), (smooth, clip), (smooth, smooth),
    (arithmetic, arithmetic), (transpose, transpose), (reshape, reshape), (reshape, flatten),
    (squeeze, reshape), (unsqueeze, reshape), (transpose, reshape), (unsqueeze, squeeze),
    (unsqueeze, unsqueeze), (slicing, slicing), (concat, concat), (splitting, concat),
    (concat, slicing), (padding, padding), (cast, cast), (gather, gather), (expand, arithmetic),
    (tile, expand), (compare, where), (compare, logic), (reduction, reshape),
    (unsqueeze, reduction), (reduction, squeeze), (smooth, transpose), (transpose, smooth),
    (dropout, convolution), (normalization, arithmetic), (transpose, product),
    (convolution, convolution), (product, product), (smooth, reshape), (slicing, arithmetic),
)  # fmt: skip


def pair(g: Graph) -> None:
    """Two steps in a row, perhaps with a third; both results may be read again later."""
    g.chained = True
    steps = g.pick(PAIRS)
    for step in (*steps, *(steps[1:] if g.flip(4) else ())):
        step(g)
    g.chained = False


@st.composite
def models(draw: st.DrawFn) -> Drawn:
    """Draw a model of about 15 steps, each of one operator or of a few that belong together."""
    opset = draw(st.sampled_from(OPSETS))
    g = Graph(draw, opset, np.random.default_rng(draw(between(0, 999))), numbered("v"))
    inputs = []
    for index in range(g.number(1, 3)):
        shapes = IMAGES if index == 0 and not g.flip(3) else INPUTS
        inputs.append(Item(f"x{index}", "f", g.pick(shapes), INPUT_BOUND))
    if g.flip(4):
        inputs.append(Item("k", "i", g.pick([(2, 3), (BATCH, 4), ()]), 3))
    if g.flip(4):
        inputs.append(Item("c", "b", ()))
    g.items += inputs
    if g.flip(4):
        g.items.insert(0, g.floats(*g.pick([(2, 3), (1, 4, 6, 6), (6,)])))
    while len(g.nodes) < MAX_NODES:
        (g.pick(STEPS) if g.flip() else pair)(g)
        if not g.number(0, MEAN_STEPS):  # asked at each step, so that steps can shrink away
            break
    return _finish(g, inputs)


def _finish(g: Graph, inputs: Sequence[Item]) -> Drawn:
    made = {name for node in g.nodes for name in node.output}
    pool = [item for item in g.items if item.name in made]
    if not pool:
        (name,) = g.node("Identity", [inputs[0]])
        pool = [replace(inputs[0], name=name)]
    read = {name for node in g.nodes for name in node.input}
    ends = [item for item in pool if item.name not in read]
    outputs = [item for item in ends[-8:] if item is ends[-1] or not g.flip(8)]
    outputs += [g.pick(pool) for _ in range(g.number(0, 2))]
    if g.flip(3):
        outputs.reverse()
    outputs = list({item.name: item for item in outputs}.values())
    graph = helper.make_graph(
        g.nodes, "g", [_info(item) for item in inputs], [_info(item) for item in outputs], g.weights
    )
    if g.flip(4):
        graph.value_info.extend(_info(item) for item in pool if item not in outputs)
    imports = [helper.make_opsetid("", g.opset)]
    version = 8 if g.opset < 19 else 10
    proto = helper.make_model(graph, ir_version=version, opset_imports=imports)
    return Drawn(proto, {item.name: item.noise for item in outputs})


def _info(item: Item) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(item.name, CODES[item.kind], list(item.shape))
