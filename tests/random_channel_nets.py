"""Random nets of layers and of what moves channels between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxcomp.graph import Array

SIDE = 4  # of the images, which keep their size


@dataclass
class Net:
    """A graph that grows; `values` are pairs of a name and its channels."""

    rng: np.random.Generator
    draw: st.DrawFn
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    values: list[tuple[str, int]] = field(default_factory=list)

    def constant(self, data: Array) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(data, name))
        return name

    def weight(self, *shape: int) -> str:
        fan = max(1, int(np.prod(shape[1:])))
        data = self.rng.standard_normal(shape) / np.sqrt(fan)
        return self.constant(data.astype(np.float32))

    def ints(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64))

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        names = [name] if outputs == 1 else [f"{name}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names[0]

    def any(self) -> tuple[str, int]:
        return self.draw(st.sampled_from(self.values))

    def add(self, name: str, channels: int) -> None:
        self.values.append((name, channels))


def conv(net: Net) -> None:
    x, c = net.any()
    out = net.draw(st.sampled_from([4, 6, 8, 12]))
    groups = net.draw(st.sampled_from([g for g in (1, 1, 2, 3, 4) if c % g == out % g == 0]))
    kernel = net.draw(st.sampled_from([1, 3]))
    weight = net.weight(out, c // groups, kernel, kernel)
    inputs = [x, weight, *([net.weight(out)] if net.draw(st.booleans()) else [])]
    net.add(net.op("Conv", *inputs, group=groups, pads=[kernel // 2] * 4), out)


def depthwise(net: Net) -> None:
    x, c = net.any()
    times = net.draw(st.sampled_from([1, 1, 2]))
    net.add(net.op("Conv", x, net.weight(c * times, 1, 3, 3), group=c, pads=[1] * 4), c * times)


def transposed(net: Net) -> None:
    x, c = net.any()
    groups = net.draw(st.sampled_from([g for g in (1, 2, c) if c % g == 0]))
    each = net.draw(st.sampled_from([1, 2, 3]))
    y = net.op("ConvTranspose", x, net.weight(c, each, 1, 1), group=groups)
    net.add(y, each * groups)


def unary(net: Net) -> None:
    x, c = net.any()
    kind = net.draw(st.sampled_from(["Relu", "Sigmoid", "Neg", "HardSwish", "Tanh"]))
    net.add(net.op(kind, x), c)


def norm(net: Net) -> None:
    x, c = net.any()
    variance = net.constant(net.rng.uniform(0.5, 2.0, c).astype(np.float32))
    inputs = [x, net.weight(c), net.weight(c), net.weight(c), variance]
    net.add(net.op("BatchNormalization", *inputs), c)


def binary(net: Net) -> None:
    x, c = net.any()
    same = [name for name, channels in net.values if channels == c]
    y = net.draw(st.sampled_from([*same, net.weight(c, 1, 1), net.weight(1)]))
    net.add(net.op(net.draw(st.sampled_from(["Add", "Mul", "Sub", "Max"])), x, y), c)


def gate(net: Net) -> None:
    x, c = net.any()
    pooled = net.op("GlobalAveragePool", x)
    middle = net.op("Relu", net.op("Conv", pooled, net.weight(4, c, 1, 1)))
    opened = net.op("Sigmoid", net.op("Conv", middle, net.weight(c, 4, 1, 1)))
    net.add(net.op("Mul", x, opened), c)


def concat(net: Net) -> None:
    (x, c), (y, d) = net.any(), net.any()
    if c + d <= 32:
        net.add(net.op("Concat", x, y, axis=1), c + d)


def split(net: Net) -> None:
    x, c = net.any()
    if c == 1:
        return
    first = net.draw(st.integers(1, c - 1))
    name = net.op("Split", x, net.ints(first, c - first), outputs=2, axis=1)
    net.add(name, first)
    net.add(f"{name[:-1]}1", c - first)


def take(net: Net) -> None:
    x, c = net.any()
    if net.draw(st.booleans()):
        order = net.draw(st.lists(st.integers(-c, c - 1), min_size=1, max_size=c))
        net.add(net.op("Gather", x, net.ints(*order), axis=1), len(order))
        return
    step = net.draw(st.sampled_from([1, 2, -1, -2]))
    start, end = sorted(net.draw(st.lists(st.integers(0, c - 1), min_size=2, max_size=2)))
    bounds = (start, end + 1) if step > 0 else (end, start - 1 if start else -c - 1)
    y = net.op("Slice", x, *(net.ints(number) for number in (*bounds, 1, step)))
    net.add(y, len(range(start, end + 1, abs(step))))


def pad(net: Net) -> None:
    x, c = net.any()
    front, behind = net.draw(st.integers(0, 2)), net.draw(st.integers(0, 2))
    net.add(net.op("Pad", x, net.ints(0, front, 0, 0, 0, behind, 0, 0)), c + front + behind)


def shuffle(net: Net) -> None:
    x, c = net.any()
    groups = net.draw(st.sampled_from([g for g in (1, 2, 3, 4) if c % g == 0]))
    five = net.op("Reshape", x, net.ints(0, groups, c // groups, SIDE, SIDE))
    swapped = net.op("Transpose", five, perm=[0, 2, 1, 3, 4])
    net.add(net.op("Reshape", swapped, net.ints(0, -1, SIDE, SIDE)), c)


def fold(net: Net) -> None:
    """Move channels into places and back, or the other way round."""
    x, c = net.any()
    mode = net.draw(st.sampled_from(["DCR", "CRD"]))
    if c % 4 == 0:
        wide = net.op("DepthToSpace", x, blocksize=2, mode=mode)
        if net.draw(st.booleans()):
            wide = net.op("Conv", wide, net.weight(c // 4, c // 4, 1, 1))
        net.add(net.op("SpaceToDepth", wide, blocksize=2), c)


def attention(net: Net) -> None:
    x, c = net.any()
    heads = net.draw(st.sampled_from([h for h in (1, 2, 3, 4) if c % h == 0]))
    tokens = net.op("Transpose", net.op("Reshape", x, net.ints(0, c, -1)), perm=[0, 2, 1])
    width = c // heads
    turned = []
    for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        made = net.op("Add", net.op("MatMul", tokens, net.weight(c, c)), net.weight(c))
        parts = net.op("Reshape", made, net.ints(0, 0, heads, width))
        turned.append(net.op("Transpose", parts, perm=order))
    weights = net.op("Softmax", net.op("MatMul", turned[0], turned[1]), axis=-1)
    mixed = net.op("Transpose", net.op("MatMul", weights, turned[2]), perm=[0, 2, 1, 3])
    joined = net.op("MatMul", net.op("Reshape", mixed, net.ints(0, 0, c)), net.weight(c, c))
    back = net.op("Transpose", joined, perm=[0, 2, 1])
    net.add(net.op("Reshape", back, net.ints(0, c, SIDE, SIDE)), c)


def reduce(net: Net) -> None:
    x, c = net.any()
    kind = net.draw(st.sampled_from(["ReduceMean", "ReduceMax"]))
    axes = net.draw(st.sampled_from([[1], [2, 3]]))
    net.add(net.op("Sub", x, net.op(kind, x, axes=axes, keepdims=1)), c)


STEPS = (
    *(conv, conv, conv, depthwise, transposed, unary, norm, binary, binary, gate, concat),
    *(split, take, pad, shuffle, fold, attention, reduce),
)


@st.composite
def channel_nets(draw: st.DrawFn) -> onnx.ModelProto:
    """Return a net of a few layers over images, that ends in a layer of every value not read."""
    net = Net(np.random.default_rng(draw(st.integers(0, 9))), draw)
    net.add("x", 4)
    conv(net)
    for _ in range(draw(st.integers(2, 9))):
        draw(st.sampled_from(STEPS))(net)
    read = {name for node in net.nodes for name in node.input}
    ends = [(name, c) for name, c in net.values if name not in read]
    flat = draw(st.booleans())
    last = [_end(net, name, channels, flat=flat) for name, channels in ends]
    y = net.op("Sum", *last)
    graph = helper.make_graph(
        net.nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, SIDE, SIDE])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", 5])],
        net.constants,
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _end(net: Net, name: str, channels: int, *, flat: bool) -> str:
    if not flat:
        name, size = net.op("GlobalAveragePool", name), channels
    else:
        size = channels * SIDE * SIDE
    return net.op("Gemm", net.op("Flatten", name), net.weight(5, size), transB=1)
