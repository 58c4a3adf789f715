"""Lowers the standard operator set of a model, as far as its nodes can be said in older words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial

import numpy as np
import onnx
import onnx_ir as ir

from onnxcomp.edits import add_constant
from onnxcomp.graph import (
    STANDARD_DOMAINS,
    all_graphs,
    array,
    integers,
    label,
    only_first_output,
    opset_version,
    rank,
    scalar,
    static_shape,
    tensor,
)
from onnxcomp.opset import REDUCTIONS, CannotConvertError, set_opset
from onnxcomp.shapes import infer_shapes

# From this version on every axis may be negative.
NEGATIVE_AXES = 11
# What is meant by default where the schema has no default, since the number of dims is open.
_IMPLIED = {"dilations": 1, "strides": 1, "pads": 0}


def lower_nodes(model: ir.Model, version: int) -> None:
    """Give every node the form that it had in an earlier operator set, in place.

    What has the same attributes and inputs in both versions stays. Whether the older one knew its
    types, and meant the same, is for the checker and for the comparison of answers to say. Raises
    `CannotConvertError` where there is no older form; the model is then half converted.
    """
    old = opset_version(model)
    infer_shapes(model)
    for graph in list(all_graphs(model)):
        for node in list(graph):
            if node.domain in STANDARD_DOMAINS:
                _lower(node, old, version)
    for graph in all_graphs(model):
        _drop_unread(graph)
    set_opset(model, version)


def _lower(node: ir.Node, old: int, version: int) -> None:
    newer = schema_of(node.op_type, old)
    for since, adapt in _ADAPTERS.get(node.op_type, ()):
        if version < since <= old:
            adapt(node)
    schema = schema_of(node.op_type, version)
    if schema is None:
        raise CannotConvertError(f"{label(node)}: there is no {node.op_type} in opset {version}")
    for name, attr in list(node.attributes.items()):
        if name in schema.attributes:
            continue
        if newer is None or not is_default(attr, newer):
            raise CannotConvertError(
                f"{label(node)}: {node.op_type} has no {name} in opset {version}"
            )
        del node.attributes[name]
    while node.inputs and node.inputs[-1] is None:
        node.resize_inputs(len(node.inputs) - 1)
    if len(node.inputs) > schema.max_input:
        raise CannotConvertError(
            f"{label(node)}: {node.op_type} takes {schema.max_input} inputs in opset {version}"
        )
    if version < NEGATIVE_AXES:
        _make_axes_positive(node)


@cache
def schema_of(op_type: str, version: int) -> onnx.defs.OpSchema | None:
    """Return what a standard operator is in an operator set, or None where it is none."""
    try:
        schema = onnx.defs.get_schema(op_type, version, "")
    except onnx.defs.SchemaError:
        return None
    return None if schema.deprecated else schema


def is_default(attr: ir.Attr, schema: onnx.defs.OpSchema) -> bool:
    """Say whether an attribute has its default value, so that it can be left out."""
    known = schema.attributes.get(attr.name)
    if known is None or attr.is_ref():
        return False
    if attr.name in _IMPLIED and attr.type == ir.AttributeType.INTS:
        return all(item == _IMPLIED[attr.name] for item in attr.as_ints())
    default = known.default_value
    if default.type == onnx.AttributeProto.UNDEFINED:
        return False
    value = onnx.helper.get_attribute_value(default)
    return bool((value.decode() if isinstance(value, bytes) else value) == attr.value)


def _make_axes_positive(node: ir.Node) -> None:
    for name in ("axis", "axes"):
        attr = node.attributes.get(name)
        if attr is None:
            continue
        axes = [attr.as_int()] if attr.type == ir.AttributeType.INT else list(attr.as_ints())
        if all(axis >= 0 for axis in axes):
            continue
        source = node.outputs[0] if node.op_type == "Unsqueeze" else node.inputs[0]
        dims = rank(source)
        if dims is None:
            raise CannotConvertError(f"{label(node)}: {name} {axes} of an unknown number of dims")
        positive = [axis % dims for axis in axes]
        single = attr.type == ir.AttributeType.INT
        node.attributes.add(
            ir.AttrInt64(name, positive[0]) if single else ir.AttrInt64s(name, positive)
        )


def _drop_unread(graph: ir.Graph) -> None:
    """Remove the constants that became attributes."""
    for node in reversed(graph):
        output = node.outputs[0] if node.op_type == "Constant" else None
        if output is not None and not output.uses() and not output.is_graph_output():
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del graph.initializers[name]


# ---------------------------------------------------------------- inputs that were attributes
def _refuse(node: ir.Node, what: str) -> CannotConvertError:
    return CannotConvertError(f"{label(node)}: {node.op_type} with {what}")


def _take(node: ir.Node, index: int) -> ir.Value | None:
    """Return an input and disconnect it."""
    value = node.inputs[index] if len(node.inputs) > index else None
    if value is not None:
        node.replace_input_with(index, None)
    return value


def _ints_back(node: ir.Node, index: int, name: str) -> None:
    value = _take(node, index)
    if value is None:
        return
    found = integers(value)
    if found is None:
        raise _refuse(node, f"{name} that are computed")
    node.attributes.add(ir.AttrInt64s(name, found))


def _float_back(node: ir.Node, index: int, name: str) -> None:
    value = _take(node, index)
    if value is None:
        return
    found = scalar(value)
    if found is None:
        raise _refuse(node, f"a {name} that is computed")
    node.attributes.add(ir.AttrFloat32(name, float(found)))


def _int_back(node: ir.Node, index: int, name: str) -> None:
    value = _take(node, index)
    if value is None:
        return
    found = integers(value)
    if found is None or len(found) != 1:
        raise _refuse(node, f"a {name} that is computed")
    node.attributes.add(ir.AttrInt64(name, found[0]))


def _axes(node: ir.Node) -> None:
    """Before, an empty list of axes always meant all."""
    _ints_back(node, 1, "axes")
    noop = node.attributes.pop("noop_with_empty_axes", None)
    axes = node.attributes.get("axes")
    if axes is None or not axes.as_ints():
        node.attributes.pop("axes", None)
        if noop is not None and noop.as_int():
            raise _refuse(node, "noop_with_empty_axes")


def _clip(node: ir.Node) -> None:
    _float_back(node, 1, "min")
    _float_back(node, 2, "max")


def _pad(node: ir.Node) -> None:
    _ints_back(node, 1, "pads")
    _float_back(node, 2, "value")


def _slice(node: ir.Node) -> None:
    steps = _take(node, 4)
    if steps is not None and any(step != 1 for step in integers(steps) or [0]):
        raise _refuse(node, "steps")
    for index, name in ((1, "starts"), (2, "ends"), (3, "axes")):
        _ints_back(node, index, name)


def _split_18(node: ir.Node) -> None:
    """Before 18 an equal split is meant where no sizes are given; the last part may be less."""
    if node.attributes.pop("num_outputs", None) is None:
        return
    shape, parts = static_shape(node.inputs[0]), len(node.outputs)
    axis = node.attributes.get_int("axis", 0)
    if shape is None or shape[axis] % parts:
        raise _refuse(node, "parts of unknown or unequal sizes")


def _dropout(node: ir.Node) -> None:
    training = _take(node, 2)
    if training is not None and (array(training) is None or array(training).any()):  # type: ignore[union-attr]
        raise _refuse(node, "training_mode")
    if not only_first_output(node):
        raise _refuse(node, "a mask that is read")
    node.attributes.pop("seed", None)
    _take(node, 1)


# ---------------------------------------------------------------- other forms
def _softmax(node: ir.Node) -> None:
    """Before 13 the dims from `axis` on were one: the same where that is only the last."""
    axis, dims = node.attributes.get_int("axis", -1), rank(node.inputs[0])
    if dims is None or axis % dims != dims - 1:
        raise _refuse(node, "an axis that is not surely the last")
    node.attributes.add(ir.AttrInt64("axis", dims - 1))


def _batch_normalization(node: ir.Node) -> None:
    if node.attributes.get_int("training_mode", 0):
        raise _refuse(node, "training_mode")


def _resize_13(node: ir.Node) -> None:
    """Before 13 empty tensors stood for the inputs that are left out."""
    assert isinstance(node.graph, ir.Graph)
    for index, name in ((1, "roi"), (2, "scales")):
        if index < len(node.inputs) and node.inputs[index] is None:
            stem = f"{node.outputs[0].name}.{name}"
            empty = add_constant(node.graph, np.zeros(0, np.float32), stem)
            node.replace_input_with(index, empty)


def _resize_11(node: ir.Node) -> None:
    """Before 11 coordinates were x / scale, and nearest meant floor; sizes were not known."""
    modes = {
        name: node.attributes.get_string(name, default)
        for name, default in (
            ("mode", "nearest"),
            ("coordinate_transformation_mode", "half_pixel"),
            ("nearest_mode", "round_prefer_floor"),
        )
    }
    asymmetric = modes["coordinate_transformation_mode"] == "asymmetric"
    fitting = modes["mode"] == "linear" or modes["nearest_mode"] == "floor"
    if not asymmetric or not fitting or modes["mode"] == "cubic":
        raise _refuse(node, ", ".join(str(mode) for mode in modes.values()))
    scales = node.inputs[2] if len(node.inputs) == 3 else None
    found = tensor(scales)
    if found is None or not found.size:
        raise _refuse(node, "sizes or computed scales")
    for name in list(node.attributes):
        if name != "mode":
            del node.attributes[name]
    node.replace_input_with(1, scales)
    node.resize_inputs(2)


def _upsample(node: ir.Node) -> None:
    node.op_type = "Upsample"


def _scatter(node: ir.Node) -> None:
    node.op_type = "Scatter"


def _roi_align(node: ir.Node) -> None:
    mode = node.attributes.pop("coordinate_transformation_mode", None)
    if mode is None or mode.as_string() != "output_half_pixel":
        raise _refuse(node, "half_pixel")


def _grid_sample(node: ir.Node) -> None:
    mode = node.attributes.get_string("mode", "linear")
    older = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    node.attributes.add(ir.AttrString("mode", older))


def _constant(node: ir.Node) -> None:
    """Before 12 there was `value` only."""
    found = tensor(node.outputs[0])
    if found is None:
        raise _refuse(node, "a value that is not dense")
    if "value" not in node.attributes:
        node.attributes.clear()
        node.attributes.add(ir.AttrTensor("value", found))


def _gemm(node: ir.Node) -> None:
    if len(node.inputs) < 3 or node.inputs[2] is None:
        raise _refuse(node, "no C")


def _no_equivalent(node: ir.Node) -> None:
    raise _refuse(node, "the meaning that it has since then")


Adapter = Callable[[ir.Node], None]


def _each(
    names: Iterable[str], since: int, adapt: Adapter
) -> dict[str, tuple[tuple[int, Adapter]]]:
    return dict.fromkeys(names, ((since, adapt),))


# Per op: the version whose form an adapter undoes, the latest first.
_ADAPTERS: dict[str, tuple[tuple[int, Adapter], ...]] = {
    **_each(("ReduceSum", "Squeeze", "Unsqueeze"), 13, _axes),
    **_each(("Softmax", "LogSoftmax", "Hardmax"), 13, _softmax),
    **_each(REDUCTIONS, 18, _axes),
    "BatchNormalization": ((14, _batch_normalization),),
    "Clip": ((11, _clip),),
    "Constant": ((12, _constant),),
    "DFT": ((20, partial(_int_back, index=2, name="axis")),),
    "Dropout": ((12, _dropout),),
    "Gemm": ((11, _gemm),),
    "GridSample": ((20, _grid_sample),),
    "GroupNormalization": ((21, _no_equivalent),),
    "Pad": ((11, _pad),),
    "Resize": ((13, _resize_13), (11, _resize_11), (10, _upsample)),
    "RoiAlign": ((16, _roi_align),),
    "ScatterElements": ((11, _scatter),),
    "Slice": ((10, _slice),),
    "Split": ((18, _split_18), (13, partial(_ints_back, index=1, name="split"))),
    "TopK": ((10, partial(_int_back, index=1, name="k")),),
}
