"""Which multiply-accumulates run in int8, read off the graph that ONNX Runtime really runs."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from onnxcomp.cost import node_costs
from onnxcomp.graph import Array, all_nodes, label
from onnxcomp.registry import Leave
from onnxcomp.runtime import Session

INT8_KERNELS = frozenset(
    {"QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "ConvInteger"}
    | {"MatMulInteger", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QAttention"}
)
# What ONNX Runtime appends to the name of a product that it fuses with what is around it.
FUSED = re.compile(r"(/\w*Fusion/?)+$")
FLOAT_KERNELS = frozenset(
    {"Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul"}
    | {"FusedMatMul", "LSTM", "GRU", "RNN", "Attention", "MultiHeadAttention"}
)


@dataclass(frozen=True)
class FloatNode:
    """A node that multiplies in float, and why."""

    name: str
    op: str
    reason: str


@dataclass(frozen=True)
class Coverage:
    """How much of a model's multiply-accumulates run in int8 kernels.

    `macs_share` is weighted by multiply-accumulates, or by nodes where these are unknown; it is
    None when the model multiplies nothing.
    """

    int8_nodes: int
    nodes: int
    macs_share: float | None
    float_nodes: tuple[FloatNode, ...]


def coverage(
    model: ir.Model,
    left: Iterable[Leave] = (),
    feeds: Mapping[str, Array] | None = None,
    *,
    signed: bool = False,
) -> Coverage:
    """Return the int8 coverage of a quantized model.

    `left` are the reasons that the quantizing pass left; a float node without one says "float
    kernel". `feeds` give the shapes at which multiply-accumulates are counted. `signed` is said of
    models with int8 activations.
    """
    reasons = {item.node: item.reason for item in left}
    model = with_names(model)
    nodes = optimized_graph(model, signed=signed)
    kernels = [node for node in nodes if node.op_type in INT8_KERNELS | FLOAT_KERNELS]
    integer = [node for node in kernels if node.op_type in INT8_KERNELS]
    floats = [node for node in kernels if node.op_type in FLOAT_KERNELS]
    return Coverage(
        int8_nodes=len(integer),
        nodes=len(kernels),
        macs_share=_share(model, integer, kernels, feeds),
        float_nodes=tuple(
            FloatNode(label(node), node.op_type, reasons.get(_origin(node), "float kernel"))
            for node in floats
        ),
    )


def with_names(model: ir.Model) -> ir.Model:
    """Return a copy whose nodes all have names: ONNX Runtime keeps these, so nodes can be found."""
    copy = model.clone()
    for node in all_nodes(copy):
        node.name = label(node)
    return copy


def optimized_graph(model: ir.Model, *, signed: bool = False) -> list[ir.Node]:
    """Return the nodes, subgraphs included, that ONNX Runtime runs in the place of a model's.

    At the extended level: above it only memory layouts change.
    """
    with tempfile.TemporaryDirectory(prefix="onnxcomp-") as folder:
        path = Path(folder) / "optimized.onnx"
        Session(model, optimize=True, dump=path, signed=signed)
        return list(all_nodes(ir.load(path)))


def _share(
    model: ir.Model,
    integer: list[ir.Node],
    kernels: list[ir.Node],
    feeds: Mapping[str, Array] | None,
) -> float | None:
    """Return the int8 share: ONNX Runtime keeps the name of a node whose kernel it replaces.

    A DynamicQuantizeMatMul or MatMulIntegerToFloat has the name of the MatMulInteger.
    """
    if not kernels:
        return None
    macs = {cost.node: cost.macs for cost in node_costs(model, feeds) if cost.macs}
    names = [_origin(node) for node in kernels]
    if len(set(names)) != len(names) or any(name not in macs for name in names):
        return len(integer) / len(kernels)
    return sum(macs[_origin(node)] for node in integer) / sum(macs[name] for name in names)


def _origin(kernel: ir.Node) -> str:
    return FUSED.sub("", kernel.name or "")
