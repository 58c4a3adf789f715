"""Folds into convolutions and matrix products keep the answers at any geometry."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcomp.edits import sweep
from onnxcomp.graph import Array
from onnxcomp.parity import compare_outputs
from onnxcomp.registry import Effect, apply, find_pass
from onnxcomp.runtime import Session


@st.composite
def convolutions(draw: st.DrawFn) -> dict[str, object]:
    """Draw the geometry of a Conv or ConvTranspose of one to three spatial dims."""
    rank = draw(st.integers(1, 3))
    group = draw(st.sampled_from([1, 2, 3]))
    return {
        "op": draw(st.sampled_from(["Conv", "ConvTranspose"])),
        "group": group,
        "inputs": group * draw(st.integers(1, 2)),
        "outputs": group * draw(st.integers(1, 3)),
        "kernel": draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank)),
        "strides": draw(st.lists(st.integers(1, 2), min_size=rank, max_size=rank)),
        "dilations": draw(st.lists(st.integers(1, 2), min_size=rank, max_size=rank)),
        "pad": draw(st.integers(0, 1)),
        "bias": draw(st.booleans()),
        "seed": draw(st.integers(0, 1000)),
    }


class Net:
    """A chain of nodes over one input, with seeded weights."""

    def __init__(self, spec: dict[str, object]) -> None:
        self.rng = np.random.default_rng(int(str(spec["seed"])))
        self.spec = spec
        self.rank = len(list(spec["kernel"]))  # type: ignore[call-overload]
        dims = [2, spec["inputs"], *[7] * self.rank]
        self.input = ir.Value(
            name="x",
            shape=ir.Shape(dims),  # type: ignore[arg-type]
            type=ir.TensorType(ir.DataType.FLOAT),
        )
        self.tape = ir.tape.Tape()
        self.weights: list[ir.Value] = []

    def constant(self, *shape: int, positive: bool = False) -> ir.Value:
        data = self.rng.uniform(0.5, 1.5, shape)
        if not positive:
            data *= self.rng.choice([-1, 1], shape)
        name = f"k{len(self.weights)}"
        tensor = ir.tensor(data.astype(np.float32), name=name)
        value = ir.Value(
            name=name,
            shape=ir.Shape(shape),
            type=ir.TensorType(ir.DataType.FLOAT),
            const_value=tensor,
        )
        self.weights.append(value)
        return value

    def conv(self, x: ir.Value) -> ir.Value:
        spec = {key: value for key, value in self.spec.items() if isinstance(value, int)}
        inputs, outputs, group = spec["inputs"], spec["outputs"], spec["group"]
        kernel = list(self.spec["kernel"])  # type: ignore[call-overload]
        transposed = self.spec["op"] == "ConvTranspose"
        first, second = (inputs, outputs // group) if transposed else (outputs, inputs // group)
        weight = self.constant(first, second, *kernel)
        bias = [self.constant(outputs)] if self.spec["bias"] else []
        attributes: dict[str, Any] = {
            "group": group,
            "strides": self.spec["strides"],
            "dilations": self.spec["dilations"],
            "pads": [spec["pad"]] * (2 * self.rank),
        }
        return self.tape.op(str(self.spec["op"]), [x, weight, *bias], attributes)

    def per_channel(self, channels: int) -> ir.Value:
        return self.constant(channels, *[1] * self.rank)

    def batch_norm(self, x: ir.Value, channels: int) -> ir.Value:
        parts = [self.constant(channels) for _ in range(3)]
        inputs = [x, *parts, self.constant(channels, positive=True)]
        return self.tape.op("BatchNormalization", inputs, {"epsilon": 0.01})

    def finish(self, y: ir.Value) -> ir.Model:
        y.name, y.type = "y", ir.TensorType(ir.DataType.FLOAT)
        graph = ir.Graph(
            [self.input],
            [y],
            nodes=self.tape.nodes,
            initializers=self.weights,
            opset_imports={"": 17},
            name="g",
        )
        return ir.Model(graph, ir_version=8)

    def feeds(self) -> dict[str, Array]:
        shape = [int(str(dim)) for dim in self.input.shape or ()]
        return {"x": self.rng.standard_normal(shape).astype(np.float32)}


def check(net: Net, model: ir.Model, name: str, *, folds: bool = True) -> None:
    feeds = net.feeds()
    before = Session(model).run(feeds)
    assert apply(find_pass(name), model).sites == int(folds)
    sweep(model)
    parity = compare_outputs(before, Session(model).run(feeds))
    assert not parity.failures(Effect.CLOSE), parity


@settings(max_examples=60)
@given(spec=convolutions(), kind=st.sampled_from(["bn", "Add", "Sub", "Mul", "Div"]))
def test_what_follows_a_convolution(spec: dict[str, object], kind: str) -> None:
    net = Net(spec)
    outputs = int(str(spec["outputs"]))
    y = net.conv(net.input)
    if kind == "bn":
        y = net.batch_norm(y, outputs)
        name = {"Conv": "fuse-bn-into-conv"}.get(str(spec["op"]), "fuse-bn-into-conv-transpose")
    else:
        y = net.tape.op(kind, [y, net.per_channel(outputs)])
        name = "fuse-add-into-conv" if kind in ("Add", "Sub") else "fuse-mul-into-conv"
    check(net, net.finish(y), name)


@settings(max_examples=40)
@given(spec=convolutions(), kind=st.sampled_from(["bn", "Mul"]))
def test_what_comes_before_a_convolution(spec: dict[str, object], kind: str) -> None:
    spec["op"] = "Conv"
    net = Net(spec)
    inputs = int(str(spec["inputs"]))
    x = net.input
    if kind == "bn":
        x = net.batch_norm(x, inputs)
        folds = spec["pad"] == 0
        check(net, net.finish(net.conv(x)), "fuse-bn-before-conv", folds=folds)
    else:
        x = net.tape.op("Mul", [x, net.per_channel(inputs)])
        check(net, net.finish(net.conv(x)), "fuse-mul-before-conv")


@pytest.mark.parametrize("rank", [1, 2, 3])
@given(before=st.integers(0, 2), after=st.integers(0, 2), own=st.integers(0, 2))
@settings(max_examples=15)
def test_padding(rank: int, before: int, after: int, own: int) -> None:
    spec: dict[str, object] = {
        "op": "Conv", "group": 1, "inputs": 2, "outputs": 3, "kernel": [3] * rank,
        "strides": [1] * rank, "dilations": [1] * rank, "pad": own, "bias": True, "seed": before,
    }  # fmt: skip
    net = Net(spec)
    pads = np.array([0, 0, *[before] * rank, 0, 0, *[after] * rank])
    value = ir.Value(name="pads", const_value=ir.tensor(pads, name="pads"))
    net.weights.append(value)
    x = net.tape.op("Pad", [net.input, value])
    check(net, net.finish(net.conv(x)), "fuse-pad-into-conv")


ROWS = [None, (), (1,), (1, 1), "N", "1N"]


@settings(max_examples=60)
@given(
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(2, 4)),
    flips=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    factors=st.tuples(st.sampled_from([1.0, 0.5, -2.0]), st.sampled_from([1.0, 0.0, 3.0])),
    c=st.sampled_from(ROWS),
    kind=st.sampled_from(["bn", "Add", "Sub"]),
    constant=st.sampled_from(ROWS[1:]),
)
def test_what_follows_a_gemm(
    sizes: tuple[int, int, int],
    flips: tuple[int, int],
    factors: tuple[float, float],
    c: object,
    kind: str,
    constant: object,
) -> None:
    (rows, inner, columns), (flip_a, flip_b) = sizes, flips
    net = Net({"seed": rows, "kernel": [], "inputs": inner})
    net.input.shape = ir.Shape([inner, rows] if flip_a else [rows, inner])

    def row(shape: object) -> ir.Value:
        dims = {"N": (columns,), "1N": (1, columns)}.get(str(shape), shape)
        return net.constant(*dims)  # type: ignore[misc]

    weight = net.constant(columns, inner) if flip_b else net.constant(inner, columns)
    inputs = [net.input, weight, *([] if c is None else [row(c)])]
    attributes = {"transA": flip_a, "transB": flip_b, "alpha": factors[0], "beta": factors[1]}
    y = net.tape.op("Gemm", inputs, attributes)
    if kind == "bn":
        check(net, net.finish(net.batch_norm(y, columns)), "fuse-bn-into-gemm")
    else:
        y = net.tape.op(kind, [y, row(constant)])
        check(net, net.finish(y), "fuse-add-into-gemm")


@settings(max_examples=20)
@given(
    sizes=st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(1, 4)),
    kind=st.sampled_from(["bn", *ROWS[1:]]),
)
def test_what_follows_a_matrix_product(sizes: tuple[int, int, int], kind: object) -> None:
    rows, inner, columns = sizes
    net = Net({"seed": rows, "kernel": [], "inputs": inner})
    net.input.shape = ir.Shape([rows, inner])
    y = net.tape.op("MatMul", [net.input, net.constant(inner, columns)])
    if kind == "bn":
        check(net, net.finish(net.batch_norm(y, columns)), "fuse-bn-into-matmul")
        return
    dims = {"N": (columns,), "1N": (1, columns)}.get(str(kind), kind)
    y = net.tape.op("Add", [y, net.constant(*dims)])  # type: ignore[misc]
    check(net, net.finish(y), "fuse-matmul-add-into-gemm")
