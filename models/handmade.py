"""The models that are written out node by node, with seeded weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, parser

Weights = Mapping[str, np.ndarray[Any, Any]]

CONTROL_FLOW = """
<ir_version: 8, opset_import: ["": 16]>
control_flow (float[N, 32] x) => (float[N, 32] y, float[steps] levels) {
    hidden = Gemm(x, w_in, b_in)
    mean = ReduceMean<keepdims = 0>(x)
    positive = Greater(mean, zero)
    start = If(positive) <
        then_branch = positive_mean () => (float[N, 32] then_out) {
            mixed = MatMul(hidden, w_then)
            joined = Add(mixed, x)
            then_out = Relu(joined)
        },
        else_branch = negative_mean () => (float[N, 32] else_out) {
            else_out = Identity(hidden)
        }
    >
    y, levels = Loop(trips, true, start) <
        body = step (int64 index, bool go, float[N, 32] state)
            => (bool go_on, float[N, 32] next, float level) {
            turned = MatMul(state, w_loop)
            driven = Add(turned, hidden)
            next = Tanh(driven)
            level = ReduceMean<keepdims = 0>(next)
            go_on = Identity(go)
        }
    >
}
"""

DYNAMIC_SHAPES = """
<ir_version: 7, opset_import: ["": 12]>
dynamic_shapes (float[N, T, 32] x) => (float[N, T, 8] y) {
    kept = Identity(x)
    same = Cast<to = 1>(kept)
    still = Transpose<perm = [0, 1, 2]>(same)
    shape = Shape(still)
    batch = Gather<axis = 0>(shape, zero)
    shape_again = Shape(still)
    length = Gather<axis = 0>(shape_again, one)
    rows = Mul(batch, length)
    rows_1d = Unsqueeze<axes = [0]>(rows)
    flat_shape = Concat<axis = 0>(rows_1d, width)
    flat = Reshape(still, flat_shape)
    product = MatMul(flat, w_hidden)
    biased = Add(product, b_hidden)
    hidden = Relu(biased)
    dropped = Dropout(hidden, ratio)
    scores = Gemm<transB = 1>(dropped, w_out, b_out)
    batch_1d = Unsqueeze<axes = [0]>(batch)
    length_1d = Unsqueeze<axes = [0]>(length)
    full_shape = Concat<axis = 0>(batch_1d, length_1d, classes)
    unflat = Reshape(scores, full_shape)
    shares = Softmax<axis = 2>(unflat)
    y = Identity(shares)
}
"""


def kaiming(rng: np.random.Generator, *shape: int, fan_in: int) -> np.ndarray[Any, Any]:
    """Draw weights that keep the scale of what passes through a Relu layer."""
    return rng.normal(0, (2 / fan_in) ** 0.5, shape).astype(np.float32)


def control_flow() -> onnx.ModelProto:
    """Return a model with an If and a Loop whose bodies use values and weights from outside."""
    rng = np.random.default_rng(8)
    weights = {
        "w_in": kaiming(rng, 32, 32, fan_in=32),
        "b_in": kaiming(rng, 32, fan_in=200),
        "zero": np.float32(0),
        "w_then": kaiming(rng, 32, 32, fan_in=32),
        "trips": np.int64(4),
        "true": np.bool_(True),
        "w_loop": kaiming(rng, 32, 32, fan_in=64),
    }
    model = parser.parse_model(CONTROL_FLOW)
    tensors = [numpy_helper.from_array(np.asarray(a), name) for name, a in weights.items()]
    model.graph.initializer.extend(tensors)
    return named(model)


def dynamic_shapes() -> onnx.ModelProto:
    """Return a model as careless exporters write it, its weights in Constant nodes."""
    rng = np.random.default_rng(9)
    weights = {
        "zero": np.int64(0),
        "one": np.int64(1),
        "width": np.array([32]),
        "classes": np.array([8]),
        "ratio": np.float32(0.1),
        "w_hidden": kaiming(rng, 32, 256, fan_in=32),
        "b_hidden": kaiming(rng, 256, fan_in=200),
        "w_out": kaiming(rng, 8, 256, fan_in=256),
        "b_out": kaiming(rng, 8, fan_in=200),
    }
    model = parser.parse_model(DYNAMIC_SHAPES)
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(a)))
        for name, a in weights.items()
    ]
    nodes.extend(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return named(model)


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    """Name the producer, and each node after the value that it makes."""
    model.producer_name = "handmade"
    graphs = [model.graph]
    for graph in graphs:
        for node in graph.node:
            node.name = f"{node.op_type}_{node.output[0]}"
            graphs.extend(a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH)
    return model
