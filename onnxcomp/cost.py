"""What a model costs: multiply-accumulates, parameters and bytes, per node and in all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod

import numpy as np
import onnx_ir as ir

from onnxcomp.errors import ModelError
from onnxcomp.graph import (
    Array,
    all_graphs,
    all_nodes,
    count_nodes,
    is_op,
    label,
    static_shape,
    tensor,
)
from onnxcomp.model_io import model_bytes
from onnxcomp.runtime import Session
from onnxcomp.symbolic.dims import Dim
from onnxcomp.symbolic.propagate import propagate

Dims = tuple[int, ...]
# The shapes of values in one run.
Shapes = Mapping["ir.Value", Dims]
DimsOf = Callable[["ir.Value | None"], Dims]
Count = Callable[[ir.Node, DimsOf], int]


@dataclass(frozen=True)
class NodeCost:
    """The cost of one node; `macs` are for one run at the given input shapes."""

    node: str
    op: str
    macs: int
    params: int
    bytes: int


@dataclass(frozen=True)
class ModelCost:
    """The size of a model; `nodes` and `ops` count subgraphs too."""

    nodes: int
    bytes: int
    params: int
    macs: int
    ops: Mapping[str, int] = field(default_factory=dict)


def measure(
    model: ir.Model, feeds: Mapping[str, Array] | None = None, *, size: int | None = None
) -> ModelCost:
    """Return what a model costs.

    MACs are counted for one sample (an open first dim is 1) at the shapes of `feeds`, or else at
    the declared ones with 1 for every dim that is not fixed. Nodes whose shapes cannot be inferred
    count 0. `size` is the file's, where it is known.
    """
    counted = any(node.op_type in _COUNTERS for node in all_nodes(model))
    shapes = concrete_shapes(model, feeds) if counted else {}
    return total_cost(model, sum(node_macs(node, shapes) or 0 for node in all_nodes(model)), size)


def total_cost(model: ir.Model, macs: int, size: int | None = None) -> ModelCost:
    """Return what a model costs whose MACs are known; `size` is the file's, where it is known."""
    return ModelCost(
        nodes=count_nodes(model),
        bytes=model_bytes(model) if size is None else size,
        params=parameters(model),
        macs=macs,
        ops=dict(sorted(Counter(node.op_type for node in all_nodes(model)).items())),
    )


def node_costs(model: ir.Model, feeds: Mapping[str, Array] | None = None) -> list[NodeCost]:
    """Return the cost of every node of the model, subgraphs included, in graph order."""
    shapes = concrete_shapes(model, feeds)
    costs = []
    for node in all_nodes(model):
        weights = [found for value in node.inputs if (found := tensor(value)) is not None]
        params = sum(weight.size for weight in weights) if not is_op(node, "Constant") else 0
        size = sum(weight.nbytes for weight in weights) if not is_op(node, "Constant") else 0
        macs = node_macs(node, shapes) or 0
        costs.append(NodeCost(label(node), node.op_type, macs, params, size))
    return costs


def parameters(model: ir.Model) -> int:
    """Return the number of constant elements: initializers and Constant nodes, each once."""
    total = sum(
        value.const_value.size
        for graph in all_graphs(model)
        for value in graph.initializers.values()
        if value.const_value is not None
    )
    constants = (tensor(node.outputs[0]) for node in all_nodes(model) if is_op(node, "Constant"))
    return total + sum(found.size for found in constants if found is not None)


def concrete_shapes(model: ir.Model, feeds: Mapping[str, Array] | None) -> dict[ir.Value, Dims]:
    """Return the shapes for inputs like one sample of `feeds`, or with 1 in the open dims."""
    given: dict[str, Dims] = {
        value.name or "": tuple(
            dim if isinstance(dim, int) and dim >= 0 else 1 for dim in value.shape
        )
        for value in model.graph.inputs
        if value.shape is not None
    }
    if feeds is not None:
        sample = one_sample(model, feeds)
        given.update({name: np.shape(data) for name, data in sample.items()})
    found = propagate(model, given).shapes
    shapes = {
        value: known for value, dims in found.items() if (known := _numbers(dims)) is not None
    }
    if feeds is not None:
        _observe_shapes(model, sample, shapes)
    return shapes


def _numbers(dims: Sequence[int | Dim]) -> Dims | None:
    numbers = tuple(dim for dim in dims if not isinstance(dim, Dim))
    return numbers if len(numbers) == len(dims) else None


def one_sample(model: ir.Model, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
    """Cut a batch to its first sample, where every input's first dim is open and of one size."""
    return next(each_sample(model, feeds), feeds)


def each_sample(model: ir.Model, feeds: Mapping[str, Array]) -> Iterator[Mapping[str, Array]]:
    """Yield the samples of a batch, or the whole where `one_sample` would not cut it."""
    batched = [
        value.name
        for value in model.graph.inputs
        if value.name in feeds and value.shape and not is_fixed(value.shape[0])
    ]
    sizes = {len(feeds[name]) for name in batched if name}
    if len(sizes) != 1:
        yield feeds
        return
    for index in range(sizes.pop()):
        yield {n: d[index : index + 1] if n in batched else d for n, d in feeds.items()}


def is_fixed(dim: int | ir.SymbolicDim) -> bool:
    """Say whether a dim is a number; some exporters write -1 for an open one."""
    return isinstance(dim, int) and dim >= 0


def _observe_shapes(
    model: ir.Model, feeds: Mapping[str, Array], shapes: dict[ir.Value, Dims]
) -> None:
    """Run the model once for the shapes that MACs need and that nothing else tells."""
    blind = [node for node in model.graph if node_macs(node, shapes) is None]
    wanted = {
        value.name: value
        for node in blind
        for value in (*node.inputs[:2], node.outputs[0])
        if value is not None and value.name and value not in shapes and tensor(value) is None
    }
    if not wanted:
        return
    try:
        seen = Session(model, taps=list(wanted)).run(feeds)
    except ModelError:
        return
    shapes.update({value: seen[name].shape for name, value in wanted.items() if name in seen})


def node_macs(node: ir.Node, shapes: Shapes) -> int | None:
    """Return the multiply-accumulates of a node, 0 for ops without, None when shapes lack.

    Conv: output elements x (in / group) x kernel. ConvTranspose: input elements x (out / group) x
    kernel. Gemm and MatMul: M x N x K. RNNs: per step and direction, gates x hidden x (in +
    hidden).
    """
    count = _COUNTERS.get(node.op_type)
    if count is None:
        return 0
    try:
        return count(node, partial(_dims_of, shapes))
    except (KeyError, IndexError, ZeroDivisionError):
        return None


def _dims_of(shapes: Shapes, value: ir.Value | None) -> Dims:
    found = shapes.get(value) if value is not None else None
    found = static_shape(value) if found is None else found
    if found is None:
        raise KeyError(value)
    return found


def _conv(node: ir.Node, dims: DimsOf) -> int:
    return prod(dims(node.outputs[0])) * prod(dims(node.inputs[1])[1:])


def _qlinear_conv(node: ir.Node, dims: DimsOf) -> int:
    return prod(dims(node.outputs[0])) * prod(dims(node.inputs[3])[1:])


def _conv_transpose(node: ir.Node, dims: DimsOf) -> int:
    return prod(dims(node.inputs[0])) * prod(dims(node.inputs[1])[1:])


def _gemm(node: ir.Node, dims: DimsOf) -> int:
    weight = dims(node.inputs[1])
    rows = dims(node.inputs[0])
    inner = weight[1] if node.attributes.get_int("transB", 0) else weight[0]
    return prod(rows) // max(inner, 1) * prod(weight)


def _matmul(node: ir.Node, dims: DimsOf) -> int:
    first, second = dims(node.inputs[0]), dims(node.inputs[1])
    try:
        return prod(dims(node.outputs[0])) * first[-1]
    except KeyError:
        return prod(first) * second[-1]


def _qlinear_matmul(node: ir.Node, dims: DimsOf) -> int:
    return prod(dims(node.inputs[0])) * dims(node.inputs[3])[-1]


def _recurrent(gates: int) -> Count:
    def count(node: ir.Node, dims: DimsOf) -> int:
        steps, batch, features = dims(node.inputs[0])
        directions, hidden_rows, _ = dims(node.inputs[1])
        hidden = hidden_rows // gates
        return steps * batch * directions * gates * hidden * (features + hidden)

    return count


def _dynamic_lstm(node: ir.Node, dims: DimsOf) -> int:
    steps, batch, _ = dims(node.inputs[0])
    return steps * batch * (prod(dims(node.inputs[1])) + prod(dims(node.inputs[2])))


_COUNTERS: dict[str, Count] = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "QLinearConv": _qlinear_conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _qlinear_matmul,
    "LSTM": _recurrent(4),
    "DynamicQuantizeLSTM": _dynamic_lstm,
    "GRU": _recurrent(3),
    "RNN": _recurrent(1),
}
