"""Constant nodes of a model as one graph of their own, which ONNX Runtime evaluates at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from onnxcomp.errors import ModelError
from onnxcomp.graph import Array, make_tensor, tensor
from onnxcomp.runtime import Session, own_names

# Constants up to this many bytes are written into the graph, where they help shape inference and
# kernels that want constants; larger ones are fed, uncopied.
SMALL = 1024
# The types that ONNX Runtime's Python interface takes and gives as arrays.
RUNNABLE = frozenset(
    {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BOOL}
    | {ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64}
    | {ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64}
    | {ir.DataType.STRING}
)


@dataclass(frozen=True)
class Batch:
    """Copies of nodes in a model of their own, and the constants to feed it."""

    model: ir.Model
    names: Mapping[ir.Value, str]
    fed: Mapping[str, ir.TensorProtocol]


def make_batch(
    model: ir.Model,
    nodes: Iterable[ir.Node],
    outputs: Sequence[ir.Value],
    results: Mapping[ir.Value, Array] | None = None,
) -> Batch:
    """Copy nodes of any graphs of a model, in order, into one flat graph.

    Every value gets a new name, as those of two subgraphs may be equal. Inputs that no node makes
    are constants, or taken from `results`.
    """
    copies: dict[ir.Value, ir.Value] = {}
    fed: dict[str, ir.TensorProtocol] = {}
    inputs, weights, made = [], [], []
    for node in nodes:
        for value in node.inputs:
            if value is None or value in copies:
                continue
            known = make_tensor(results[value]) if results and value in results else tensor(value)
            assert known is not None, value
            copy = copies[value] = _constant(known, f"v{len(copies)}")
            if known.dtype not in RUNNABLE - {ir.DataType.STRING} or known.nbytes <= SMALL:
                copy.const_value = known
                weights.append(copy)
            else:
                fed[copy.name or ""] = known
                inputs.append(copy)
        made.append(_copy(node, copies))
    graph = ir.Graph(
        inputs,
        [copies[value] for value in outputs],
        nodes=made,
        initializers=weights,
        opset_imports=dict(model.opset_imports),
        name="constants",
    )
    names = {value: copy.name or "" for value, copy in copies.items()}
    return Batch(ir.Model(graph, ir_version=model.ir_version), names, fed)


def _constant(known: ir.TensorProtocol, name: str) -> ir.Value:
    shape = ir.Shape(known.shape)  # type: ignore[arg-type]
    return ir.Value(name=name, shape=shape, type=ir.TensorType(known.dtype))


def _copy(node: ir.Node, copies: dict[ir.Value, ir.Value]) -> ir.Node:
    inputs = [None if value is None else copies[value] for value in node.inputs]
    attributes = list(node.attributes.values())
    copy = ir.Node(node.domain, node.op_type, inputs, attributes, num_outputs=len(node.outputs))
    for value, output in zip(node.outputs, copy.outputs, strict=True):
        output.name = f"v{len(copies)}" if value.name else ""
        copies[value] = output
        output.type = value.type
    return copy


def infer(batch: Batch) -> dict[ir.Value, tuple[ir.DataType, int | None]]:
    """Return the type and the bytes (None: not known) of the values, as far as onnx infers them."""
    own_names(batch.model)
    try:
        proto = onnx.shape_inference.infer_shapes(ir.to_proto(batch.model), data_prop=True)
    except Exception:  # the inference refuses some valid models; then nothing is known
        return {}
    infos = {info.name: info.type.tensor_type for info in proto.graph.value_info}
    found = {}
    for value, name in batch.names.items():
        if name in infos and infos[name].elem_type:
            found[value] = (ir.DataType(infos[name].elem_type), _bytes(infos[name]))
    return found


def _bytes(kind: onnx.TypeProto.Tensor) -> int | None:
    if not kind.HasField("shape"):
        return None
    count = 1
    for dim in kind.shape.dim:
        if not dim.HasField("dim_value"):
            return None
        count *= dim.dim_value
    dtype = ir.DataType(kind.elem_type)
    return int(count * (16 if dtype == ir.DataType.STRING else dtype.itemsize))


def evaluate(batch: Batch, outputs: Iterable[ir.Value]) -> dict[ir.Value, Array]:
    """Run a batch and return its outputs; raise `ModelError` when ONNX Runtime does not."""
    feeds = {name: np.asarray(known.numpy()) for name, known in batch.fed.items()}
    found = Session(batch.model).run(feeds)
    results = {value: found[batch.names[value]] for value in outputs}
    for value, result in results.items():
        if not isinstance(result, np.ndarray):
            raise ModelError(f"{value.name} is not a tensor")
    return results
