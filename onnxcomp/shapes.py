"""Shape and type inference that only adds: what a model declares is never overwritten."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import onnx
import onnx_ir as ir

from onnxcomp.graph import all_graphs
from onnxcomp.symbolic.propagate import propagate

# Shape arithmetic needs the values of small constants; larger ones are hidden from the inference
# by listing them as inputs, so that no weight is read and no message reaches 2 GiB.
SMALL = 1024


def infer_shapes(model: ir.Model) -> None:
    """Fill in types and shapes of inner values.

    onnx's own inference first, with data propagation; then polynomials over the inputs' dims for
    what it does not know, as names: equal names are equal dims. A declared number stays. A declared
    name of an inner value gives way, since exporters label them wrongly; `keep_declared` puts it
    back.
    """
    proto = skeleton(model)
    with contextlib.suppress(Exception):  # it refuses some valid models; then it teaches nothing
        _learn(model.graph, onnx.shape_inference.infer_shapes(proto, data_prop=True).graph)
    name_dims(model)


def name_dims(model: ir.Model) -> None:
    """Give every dim of an inner value the number or the name that `propagate` finds."""
    for value, dims in propagate(model).shapes.items():
        if value.producer() is None or value.is_graph_output():
            continue
        found = ir.Shape([dim if isinstance(dim, int) else dim.text for dim in dims])
        if found != value.shape:
            value.shape = found


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


def _learn(graph: ir.Graph, proto: onnx.GraphProto) -> None:
    infos = {info.name: info for info in proto.value_info}
    for node, node_proto in zip(graph, proto.node, strict=True):
        for output in node.outputs:
            if output.name in infos and not output.is_graph_output():
                _merge(output, infos[output.name])
        inner = {attr.name: attr.g for attr in node_proto.attribute if attr.HasField("g")}
        for attr in node.attributes.values():
            if attr.type == ir.AttributeType.GRAPH and attr.name in inner:
                _learn(attr.as_graph(), inner[attr.name])


def _merge(value: ir.Value, info: onnx.ValueInfoProto) -> None:
    if not info.type.HasField("tensor_type"):
        return
    kind = info.type.tensor_type
    if value.type is None and kind.elem_type:
        value.type = ir.TensorType(ir.DataType(kind.elem_type))
    if not kind.HasField("shape"):
        return
    numbers = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    if value.shape is None:
        value.shape = ir.Shape(numbers)
    elif len(value.shape) == len(numbers):
        pairs = zip(value.shape, numbers, strict=True)
        value.shape = ir.Shape(
            [
                new if isinstance(new, int) and not isinstance(old, int) else old
                for old, new in pairs
            ]
        )


def keep_declared(model: ir.Model, original: ir.Model) -> None:
    """Forget what inference taught about inner values, but for numbers in declared shapes.

    Readers infer it again, and a file that grew by it would be a surprise.
    """
    declared = {output.name: output for output in _inner_values(original)}
    for output in _inner_values(model):
        before = declared.get(output.name)
        if before is None or before.type is None:
            output.shape, output.type = None, None
        elif output.shape is not None:
            output.shape = _declared_again(output.shape, before.shape)


def _declared_again(shape: ir.Shape, before: ir.Shape | None) -> ir.Shape | None:
    if before is None or len(before) != len(shape):
        return before
    return ir.Shape(
        [dim if isinstance(dim, int) else old for dim, old in zip(shape, before, strict=True)]
    )


def _inner_values(model: ir.Model) -> Iterator[ir.Value]:
    return (
        output
        for graph in all_graphs(model)
        for node in graph
        for output in node.outputs
        if not output.is_graph_output()
    )
