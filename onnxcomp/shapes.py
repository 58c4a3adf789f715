"""Shape and type inference that only adds: what a model declares is never overwritten."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from onnxcomp.graph import all_graphs

# Shape arithmetic needs the values of small constants; larger ones are hidden from the inference
# by listing them as inputs, so that no weight is read and no message reaches 2 GiB.
SMALL = 1024


def infer_shapes(model: ir.Model) -> bool:
    """Fill in types and shapes of inner values; return whether anything was learnt.

    Runs onnx's own inference with data propagation. A declared dim stays; an undeclared one is
    set where the inference knows a number or a name of the model's own.
    """
    proto = skeleton(model)
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except Exception:  # the inference refuses some valid models; then nothing is learnt
        return False
    own_names = {
        dim.value
        for value in model.graph.inputs
        for dim in value.shape or ()
        if isinstance(dim, ir.SymbolicDim)
    }
    return _learn(model.graph, inferred.graph, own_names)


def skeleton(model: ir.Model) -> onnx.ModelProto:
    """Return a model as protobuf with its large weights as inputs, so that none is read."""
    copy = model.clone()
    for name, value in list(copy.graph.initializers.items()):
        data = value.const_value
        if data is None or data.nbytes <= SMALL:
            continue
        value.shape = ir.Shape(data.shape)  # type: ignore[arg-type]
        value.type = ir.TensorType(data.dtype)
        del copy.graph.initializers[name]
        value.const_value = None
        copy.graph.inputs.append(value)
    return ir.to_proto(copy)


def _learn(graph: ir.Graph, proto: onnx.GraphProto, own_names: set[str | None]) -> bool:
    infos = {info.name: info for info in proto.value_info}
    learnt = False
    for node, node_proto in zip(graph, proto.node, strict=True):
        for output in node.outputs:
            if output.name in infos and not output.is_graph_output():
                learnt |= _merge(output, infos[output.name], own_names)
        inner = {attr.name: attr.g for attr in node_proto.attribute if attr.HasField("g")}
        for attr in node.attributes.values():
            if attr.type == ir.AttributeType.GRAPH and attr.name in inner:
                learnt |= _learn(attr.as_graph(), inner[attr.name], own_names)
    return learnt


def _merge(value: ir.Value, info: onnx.ValueInfoProto, own_names: set[str | None]) -> bool:
    if not info.type.HasField("tensor_type"):
        return False
    kind = info.type.tensor_type
    learnt = False
    if value.type is None and kind.elem_type:
        value.type, learnt = ir.TensorType(ir.DataType(kind.elem_type)), True
    if not kind.HasField("shape"):
        return learnt
    dims = [_dim(dim, own_names) for dim in kind.shape.dim]
    if value.shape is None:
        value.shape = ir.Shape(dims)
        return True
    if len(value.shape) != len(dims):
        return learnt
    merged = [
        old if isinstance(old, int) or (old.value and new is None) else new
        for old, new in zip(value.shape, dims, strict=True)
    ]
    if merged == [dim if isinstance(dim, int) else dim.value for dim in value.shape]:
        return learnt
    shape = ir.Shape(merged)
    changed = shape != value.shape
    value.shape = shape
    return learnt or changed


def _dim(dim: onnx.TensorShapeProto.Dimension, own_names: set[str | None]) -> int | str | None:
    """Return a number, a name that an input declares, or None for a name that onnx invented."""
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    name = dim.dim_param
    return name if name in own_names and name != "?" else None


def keep_declared(model: ir.Model, original: ir.Model) -> None:
    """Forget the shapes and types of inner values that the original did not declare.

    Readers infer them again, and a file that grew by them would be a surprise.
    """
    declared = {output.name for output in _inner_values(original) if output.type is not None}
    for output in _inner_values(model):
        if output.name not in declared:
            output.shape, output.type = None, None


def _inner_values(model: ir.Model) -> Iterator[ir.Value]:
    return (
        output
        for graph in all_graphs(model)
        for node in graph
        for output in node.outputs
        if not output.is_graph_output()
    )
