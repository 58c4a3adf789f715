"""What a model costs: multiply-accumulates, parameters and bytes, per node and in all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod

import onnx_ir as ir

from onnxcomp.errors import ModelError
from onnxcomp.graph import Array, all_graphs, all_nodes, is_op, label, rank, static_shape, tensor
from onnxcomp.model_io import model_bytes
from onnxcomp.runtime import Session
from onnxcomp.shapes import infer_shapes

Dims = tuple[int, ...]


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
    nodes = node_costs(model, feeds)
    return ModelCost(
        nodes=sum(1 for _ in all_nodes(model)),
        bytes=model_bytes(model) if size is None else size,
        params=parameters(model),
        macs=sum(cost.macs for cost in nodes),
        ops=dict(sorted(Counter(node.op_type for node in all_nodes(model)).items())),
    )


def node_costs(model: ir.Model, feeds: Mapping[str, Array] | None = None) -> list[NodeCost]:
    """Return the cost of every node of the model, subgraphs included, in graph order."""
    concrete = with_concrete_shapes(model, feeds)
    costs = []
    for node in all_nodes(concrete):
        weights = [found for value in node.inputs if (found := tensor(value)) is not None]
        params = sum(weight.size for weight in weights) if not is_op(node, "Constant") else 0
        size = sum(weight.nbytes for weight in weights) if not is_op(node, "Constant") else 0
        costs.append(NodeCost(label(node), node.op_type, node_macs(node) or 0, params, size))
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


def with_concrete_shapes(model: ir.Model, feeds: Mapping[str, Array] | None) -> ir.Model:
    """Return a copy with inferred shapes whose inputs are those of `feeds`, or 1 in open dims."""
    copy = model.clone()
    feeds = one_sample(model, feeds) if feeds is not None else None
    for value in copy.graph.inputs:
        if feeds is not None and value.name is not None and value.name in feeds:
            value.shape = ir.Shape(feeds[value.name].shape)
        elif value.shape is not None:
            value.shape = ir.Shape([dim if isinstance(dim, int) else 1 for dim in value.shape])
    for node in copy.graph.all_nodes():
        for output in node.outputs:
            if output.shape is not None and static_shape(output) is None:
                output.shape = None
    infer_shapes(copy)
    if feeds is not None:
        _observe_shapes(copy, feeds)
    return copy


def one_sample(model: ir.Model, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
    """Cut a batch to its first sample, where every input's first dim is open and of one size."""
    batched = [
        value.name
        for value in model.graph.inputs
        if value.name in feeds and value.shape and not is_fixed(value.shape[0])
    ]
    sizes = {len(feeds[name]) for name in batched if name}
    if len(sizes) != 1:
        return feeds
    return {name: data[:1] if name in batched else data for name, data in feeds.items()}


def is_fixed(dim: int | ir.SymbolicDim) -> bool:
    """Say whether a dim is a number; some exporters write -1 for an open one."""
    return isinstance(dim, int) and dim >= 0


def _observe_shapes(model: ir.Model, feeds: Mapping[str, Array]) -> None:
    """Run the model once for the shapes that MACs need and inference did not find."""
    blind = [node for node in model.graph if node_macs(node) is None]
    wanted = {
        value.name: value
        for node in blind
        for value in (*node.inputs[:2], node.outputs[0])
        if value is not None and value.name and static_shape(value) is None
    }
    if not wanted:
        return
    try:
        seen = Session(model, taps=list(wanted)).run(feeds)
    except ModelError:
        return
    for name, value in wanted.items():
        if name in seen:
            value.shape = ir.Shape(seen[name].shape)


def node_macs(node: ir.Node) -> int | None:
    """Return the multiply-accumulates of a node, 0 for ops without, None when shapes lack.

    Conv: output elements x (in / group) x kernel. ConvTranspose: input elements x (out / group) x
    kernel. Gemm and MatMul: M x N x K. RNNs: per step and direction, gates x hidden x (in +
    hidden).
    """
    count = _COUNTERS.get(node.op_type)
    if count is None:
        return 0
    try:
        return count(node)
    except (_UnknownShapeError, IndexError, ZeroDivisionError):
        return None


class _UnknownShapeError(Exception):
    pass


def _dims(value: ir.Value | None) -> Dims:
    shape = static_shape(value)
    if shape is None:
        raise _UnknownShapeError
    return shape


def _conv(node: ir.Node) -> int:
    return prod(_dims(node.outputs[0])) * prod(_dims(node.inputs[1])[1:])


def _qlinear_conv(node: ir.Node) -> int:
    return prod(_dims(node.outputs[0])) * prod(_dims(node.inputs[3])[1:])


def _conv_transpose(node: ir.Node) -> int:
    return prod(_dims(node.inputs[0])) * prod(_dims(node.inputs[1])[1:])


def _gemm(node: ir.Node) -> int:
    weight = _dims(node.inputs[1])
    rows = _dims(node.inputs[0])
    inner = weight[1] if node.attributes.get_int("transB", 0) else weight[0]
    return prod(rows) // max(inner, 1) * prod(weight)


def _matmul(node: ir.Node) -> int:
    first, second = _dims(node.inputs[0]), _dims(node.inputs[1])
    if rank(node.outputs[0]) is not None and static_shape(node.outputs[0]) is not None:
        return prod(_dims(node.outputs[0])) * first[-1]
    return prod(first) * second[-1]


def _qlinear_matmul(node: ir.Node) -> int:
    return prod(_dims(node.inputs[0])) * _dims(node.inputs[3])[-1]


def _recurrent(gates: int) -> Callable[[ir.Node], int]:
    def count(node: ir.Node) -> int:
        steps, batch, features = _dims(node.inputs[0])
        directions, hidden_rows, _ = _dims(node.inputs[1])
        hidden = hidden_rows // gates
        return steps * batch * directions * gates * hidden * (features + hidden)

    return count


_COUNTERS: dict[str, Callable[[ir.Node], int]] = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "QLinearConv": _qlinear_conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _qlinear_matmul,
    "LSTM": _recurrent(4),
    "GRU": _recurrent(3),
    "RNN": _recurrent(1),
}
