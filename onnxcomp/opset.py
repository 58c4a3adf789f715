"""Raises the standard operator set of a model: the mechanical changes from 7 on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir

from onnxcomp.calibration.synthetic import runnable_feeds
from onnxcomp.edits import add_constant, node_like, replace
from onnxcomp.errors import ModelError
from onnxcomp.graph import (
    all_graphs,
    all_nodes,
    is_random,
    label,
    only_first_output,
    opset_version,
    rank,
)
from onnxcomp.parity import compare_outputs
from onnxcomp.registry import Effect
from onnxcomp.runtime import Session
from onnxcomp.shapes import infer_shapes, skeleton

REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSumSquare"),
)
OLDEST, NEWEST = 7, 28  # the changes between these are read and written down below


class CannotConvertError(Exception):
    """A node has no equivalent in the operator set asked for; the message says why."""


def raise_opset(model: ir.Model, version: int) -> bool:
    """Raise the standard operator set of a model to `version`, in place.

    Every node means the same afterwards; the interface and the names stay. Returns False, and
    changes nothing, when an op has no equivalent, the result is not valid, or it answers otherwise
    on random inputs. True also when the model is of that version or later already.
    """
    old = opset_version(model)
    if old >= version:
        return True
    if old < OLDEST or version > NEWEST or model.functions:
        return False
    trial = model.clone()
    try:
        raise_nodes(trial, version)
    except CannotConvertError:
        return False
    if not _equivalent(model, trial):
        return False
    raise_nodes(model, version)
    return True


def raise_nodes(model: ir.Model, version: int) -> None:
    """Give every node the form that it has in a later operator set, in place and unchecked.

    Raises `CannotConvertError` where there is none; the model is then half converted.
    """
    old = opset_version(model)
    infer_shapes(model)
    for graph in list(all_graphs(model)):
        for node in list(graph):
            if node.domain not in ("", "ai.onnx"):
                continue
            for since, adapt in _ADAPTERS.get(node.op_type, ()):
                if old < since <= version:
                    node = adapt(node)
    set_opset(model, version)


def set_opset(model: ir.Model, version: int) -> None:
    """Write the version of the standard operator set, with the IR version that it needs."""
    for imports in (model.opset_imports, *(graph.opset_imports for graph in all_graphs(model))):
        for domain in ("", "ai.onnx"):
            if domain in imports:
                imports[domain] = version
    needed = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", version)])
    model.ir_version = max(model.ir_version, needed)


def _equivalent(before: ir.Model, after: ir.Model) -> bool:
    """Say whether a raised model is valid and answers as before on random inputs."""
    try:
        session = Session(after)
        # Without the weights in files, whose paths the checker would refuse.
        onnx.checker.check_model(skeleton(after))
    except (ModelError, onnx.checker.ValidationError, ValueError):
        return False
    if any(is_random(node) for node in all_nodes(before)):
        return True
    try:
        feeds = runnable_feeds(before, count=1)
    except ModelError:
        return True  # nothing to compare on; ONNX Runtime accepts the model
    try:
        parity = compare_outputs(Session(before).run(feeds[0]), session.run(feeds[0]))
    except ModelError:
        return False
    return not parity.failures(Effect.CLOSE)


# ---------------------------------------------------------------- helpers
def _graph(node: ir.Node) -> ir.Graph:
    assert isinstance(node.graph, ir.Graph)
    return node.graph


def _refuse(node: ir.Node, what: str) -> CannotConvertError:
    return CannotConvertError(f"{label(node)}: {node.op_type} with {what}")


def _take(node: ir.Node, name: str) -> ir.Attr | None:
    return node.attributes.pop(name, None)


def _ints(node: ir.Node, name: str) -> list[int] | None:
    attr = _take(node, name)
    return None if attr is None else list(attr.as_ints())


def _append(node: ir.Node, index: int, data: np.ndarray, name: str) -> None:
    """Give a node a new constant input at a position."""
    if len(node.inputs) <= index:
        node.resize_inputs(index + 1)
    stem = next((out.name for out in node.outputs if out.name), node.op_type)
    node.replace_input_with(index, add_constant(_graph(node), data, f"{stem}.{name}"))


def _append_ints(node: ir.Node, index: int, values: list[int] | None, name: str) -> None:
    if values is not None:
        _append(node, index, np.array(values, dtype=np.int64), name)


def _float_type(node: ir.Node) -> np.dtype:
    """Return the numpy type of a node's first input, which constants beside it must have."""
    value = node.inputs[0]
    dtype = None if value is None else value.dtype
    if dtype is None and node.outputs[0].dtype is not None:
        dtype = node.outputs[0].dtype
    if dtype is None:
        raise _refuse(node, "inputs of unknown type")
    return np.dtype(dtype.numpy())


# ---------------------------------------------------------------- attributes that became inputs
def _slice(node: ir.Node) -> ir.Node:
    starts, ends, axes = (_ints(node, name) for name in ("starts", "ends", "axes"))
    _append_ints(node, 1, starts, "starts")
    _append_ints(node, 2, ends, "ends")
    _append_ints(node, 3, axes, "axes")
    return node


def _top_k(node: ir.Node) -> ir.Node:
    k = _take(node, "k")
    if k is not None:
        _append_ints(node, 1, [k.as_int()], "k")
    return node


def _clip(node: ir.Node) -> ir.Node:
    for index, name in enumerate(("min", "max"), start=1):
        attr = _take(node, name)
        if attr is not None:
            _append(node, index, np.array(attr.as_float(), dtype=_float_type(node)), name)
    return node


def _pad(node: ir.Node) -> ir.Node:
    _append_ints(node, 1, _ints(node, "pads"), "pads")
    value = _take(node, "value")
    if value is not None and value.as_float():
        _append(node, 2, np.array(value.as_float(), dtype=_float_type(node)), "value")
    return node


def _axes(node: ir.Node) -> ir.Node:
    _append_ints(node, 1, _ints(node, "axes"), "axes")
    return node


def _split(node: ir.Node) -> ir.Node:
    _append_ints(node, 1, _ints(node, "split"), "split")
    return node


def _dropout(node: ir.Node) -> ir.Node:
    """Before 12 a Dropout does nothing at inference; its ratio is of no use."""
    _take(node, "ratio")
    if len(node.outputs) > 1 and node.outputs[1].uses():
        raise _refuse(node, "a mask that is read")  # it may have another type
    return node


# ---------------------------------------------------------------- ops of another form
def _batch_normalization(node: ir.Node) -> ir.Node:
    spatial = _take(node, "spatial")
    if spatial is not None and spatial.as_int() != 1:
        raise _refuse(node, "attribute spatial = 0")
    return node


def _upsample(node: ir.Node) -> ir.Node:
    scales = _take(node, "scales")
    if scales is not None:
        _append(node, 1, np.array(scales.as_floats(), dtype=np.float32), "scales")
    return _resize(node)


def _resize(node: ir.Node) -> ir.Node:
    """Before 11 coordinates are x / scale, and nearest means floor."""
    attributes = [
        ir.AttrString("mode", node.attributes.get_string("mode", "nearest") or "nearest"),
        ir.AttrString("coordinate_transformation_mode", "asymmetric"),
        ir.AttrString("nearest_mode", "floor"),
    ]
    empty = add_constant(_graph(node), np.zeros(0, np.float32), f"{node.outputs[0].name}.roi")
    new = node_like(node, [node.inputs[0], empty, node.inputs[1]], attributes)
    new.op_type = "Resize"
    return replace([node], new)


def _resize_13(node: ir.Node) -> ir.Node:
    if node.attributes.get_string("coordinate_transformation_mode", "") == "tf_half_pixel_for_nn":
        raise _refuse(node, "tf_half_pixel_for_nn")
    return node


def _scatter(node: ir.Node) -> ir.Node:
    node.op_type = "ScatterElements"
    return node


def _softmax(node: ir.Node) -> ir.Node:
    """Before 13 the dims from `axis` on were one; where that is only the last, say so."""
    axis = node.attributes.get_int("axis", 1)
    source, output = node.inputs[0], node.outputs[0]
    dims = rank(source)
    if axis == -1 or axis + 1 == dims:
        node.attributes.add(ir.AttrInt64("axis", -1))
        return node
    graph = _graph(node)
    shape = ir.Node("", "Shape", [source])
    flat = ir.Node("", "Flatten", [source], [ir.AttrInt64("axis", axis)])
    inner = node_like(node, [flat.outputs[0]], [ir.AttrInt64("axis", -1)])
    inner.name = f"{node.name}.flat" if node.name else ""
    back = ir.Node("", "Reshape", [inner.outputs[0], shape.outputs[0]], name=node.name)
    for new, suffix in ((shape, "shape"), (flat, "flat"), (inner, "rows")):
        new.outputs[0].name = f"{output.name}.{suffix}"
        graph.insert_before(node, new)
    replace([node], back)
    return back


def _batch_normalization_14(node: ir.Node) -> ir.Node:
    """Before 14 the further outputs were for training."""
    if not only_first_output(node):
        raise _refuse(node, "outputs for training")
    node.resize_outputs(1)
    return node


def _split_18(node: ir.Node) -> ir.Node:
    """From 18 on an equal split says into how many parts."""
    if len(node.inputs) < 2 or node.inputs[1] is None:
        node.attributes.add(ir.AttrInt64("num_outputs", len(node.outputs)))
    return node


def _roi_align(node: ir.Node) -> ir.Node:
    """Write down what was meant before 16, which is not the default of its new attribute."""
    node.attributes.add(ir.AttrString("coordinate_transformation_mode", "output_half_pixel"))
    return node


def _grid_sample(node: ir.Node) -> ir.Node:
    mode = node.attributes.get_string("mode", "bilinear")
    node.attributes.add(ir.AttrString("mode", mode.removeprefix("bi")))
    return node


def _dft(node: ir.Node) -> ir.Node:
    axis = _take(node, "axis")
    _append(node, 2, np.array(1 if axis is None else axis.as_int()), "axis")
    return node


def _no_equivalent(node: ir.Node) -> ir.Node:
    raise _refuse(node, "the meaning that it had before")


Adapter = Callable[[ir.Node], ir.Node]
# Per op: the version whose form an adapter makes, in order. Ops that are not here kept their
# meaning and only learnt more types.
_ADAPTERS: dict[str, tuple[tuple[int, Adapter], ...]] = {
    "BatchNormalization": ((9, _batch_normalization), (14, _batch_normalization_14)),
    "Clip": ((11, _clip),),
    "DFT": ((20, _dft),),
    "Dropout": ((12, _dropout),),
    "GridSample": ((20, _grid_sample),),
    "GroupNormalization": ((21, _no_equivalent),),
    "Hardmax": ((13, _softmax),),
    "LogSoftmax": ((13, _softmax),),
    "Pad": ((11, _pad),),
    **dict.fromkeys(REDUCTIONS, ((18, _axes),)),
    "ReduceSum": ((13, _axes),),
    "Resize": ((11, _resize), (13, _resize_13)),
    "Scan": ((9, _no_equivalent),),
    "Scatter": ((11, _scatter),),
    "Slice": ((10, _slice),),
    "Softmax": ((13, _softmax),),
    "RoiAlign": ((16, _roi_align),),
    "Split": ((13, _split), (18, _split_18)),
    "Squeeze": ((13, _axes),),
    "TopK": ((10, _top_k),),
    "Unsqueeze": ((13, _axes),),
    "Upsample": ((10, _upsample),),
}
