"""Shape and type inference that only adds: what a model declares is never overwritten."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnxcomp.graph import all_graphs
from onnxcomp.runtime import own_names
from onnxcomp.symbolic.facts import DECLARED, declared_shape
from onnxcomp.symbolic.propagate import propagate

if TYPE_CHECKING:
    import onnx

# Shape arithmetic needs the values of small constants; larger ones are hidden from the inference
# by listing them as inputs, so that no weight is read and no message reaches 2 GiB.
SMALL = 1024
# What was written to a value last, so that only news are written.
DIMS = "onnxcomp.dims"


def infer_shapes(model: ir.Model) -> bool:
    """Fill in types and shapes of inner values; return whether anything was learnt.

    A dim is a number or a polynomial over the inputs' dims, which is written as a name, so equal
    names are equal dims. What `propagate` has no rule for, onnx's own inference is asked. A
    declared number stays. A declared name of an inner value gives way, since exporters label them
    wrongly; `keep_declared` puts it back.
    """
    learnt, whole = _name_dims(model)
    if whole:
        return learnt
    import onnx

    with contextlib.suppress(Exception):  # it refuses some valid models; then it teaches nothing
        proto = onnx.shape_inference.infer_shapes(skeleton(model), data_prop=True)
        _learn(model.graph, proto.graph)
        learnt |= _name_dims(model)[0]
    return learnt


def _name_dims(model: ir.Model) -> tuple[bool, bool]:
    """Give inner values what `propagate` finds.

    Returns whether that is anything new, and whether it is a type and a rank for each of them.
    """
    facts = propagate(model)
    learnt, whole = False, True
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in (output for node in graph for output in node.outputs):
            if value.is_graph_output() or not value.name:
                continue
            dims, kind = facts.shape(value), facts.kind(value)
            whole &= dims is not None and kind is not None
            if value.type is None and kind is not None:
                value.type, learnt = ir.TensorType(kind), True
            if dims is not None and value.meta.data.get(DIMS) != dims:
                value.meta.setdefault(DECLARED, value.shape)
                value.meta[DIMS] = dims
                value.shape = ir.Shape([d if isinstance(d, int) else d.text for d in dims])
                learnt = True
    return learnt, whole


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
    own_names(copy)
    return ir.to_proto(copy)


def _learn(graph: ir.Graph, proto: onnx.GraphProto) -> None:
    infos = {info.name: info for info in proto.value_info}
    for node, node_proto in zip(graph, proto.node, strict=True):
        for output in node.outputs:
            if output.name in infos and not output.is_graph_output():
                _take_info(output, infos[output.name])
        inner = {attr.name: attr.g for attr in node_proto.attribute if attr.HasField("g")}
        for attr in node.attributes.values():
            if attr.type == ir.AttributeType.GRAPH and attr.name in inner:
                _learn(attr.as_graph(), inner[attr.name])


def _take_info(value: ir.Value, info: onnx.ValueInfoProto) -> None:
    """Let what onnx inferred count as declared where the model declares nothing."""
    if not info.type.HasField("tensor_type"):
        return
    kind = info.type.tensor_type
    if value.type is None and kind.elem_type:
        value.type = ir.TensorType(ir.DataType(kind.elem_type))
    if not kind.HasField("shape"):
        return
    found = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    declared = declared_shape(value)
    if declared is not None and len(declared) == len(found):
        stated = [dim if isinstance(dim, int) and dim >= 0 else None for dim in declared]
        found = [old if new is None else new for old, new in zip(stated, found, strict=True)]
    if declared is None or len(declared) == len(found):
        value.meta[DECLARED] = ir.Shape(found)


def keep_declared(model: ir.Model, original: ir.Model) -> None:
    """Forget what inference taught about inner values, but for numbers in declared shapes.

    Readers infer it again, and a file that grew by it would be a surprise.
    """
    declared = {output.name: output for output in _inner_values(original)}
    for output in _inner_values(model):
        output.meta.pop(DECLARED, None)
        output.meta.pop(DIMS, None)
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
