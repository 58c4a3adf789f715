"""What operators do to channels that reckon over whole axes: pools, norms, reductions, Resize."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.channels.ids import SHIFTED, Axes, Ids, UnruledError
from onnxcomp.channels.movement_rules import shape_of
from onnxcomp.channels.sizes import check_sizes, elements_read
from onnxcomp.graph import array, integers, only_first_output
from onnxcomp.symbolic.operands import axes_of, normalized

WHOLE = "it reckons over this axis as a whole"
SPATIAL = "it slides over these places"


def _batch_normalization(node: ir.Node, ids: Ids) -> list[Axes]:
    axes = ids.of(node.inputs[0])
    if node.attributes.get_int("training_mode", 0) or not only_first_output(node):
        raise UnruledError("it is in training mode")
    if any(len(ids.of(value)) != 1 for value in node.inputs[1:]):
        raise UnruledError("its statistics are not those of channels")
    for value in node.inputs[1:]:
        ids.tie(axes[1], ids.of(value)[0])
    return [list(axes), *[[] for _ in node.outputs[1:]]]


def _pool(node: ir.Node, ids: Ids) -> list[Axes]:
    axes, shape = ids.of(node.inputs[0]), shape_of(ids, node.outputs[0])
    if not only_first_output(node):
        raise UnruledError("places of maxima are read")
    ids.pin(axes[2:], node, SPATIAL)
    made = [*axes[:2], *ids.fixed(shape[2:], node, SPATIAL)]
    return [made for _ in node.outputs]


def _instance_normalization(node: ir.Node, ids: Ids) -> list[Axes]:
    axes = ids.of(node.inputs[0])
    for value in node.inputs[1:]:
        ids.tie(axes[1], ids.of(value)[0])
    ids.pin(axes[2:], node, WHOLE)
    ids.note(axes[1], SHIFTED)
    return [list(axes)]


def _group_normalization(node: ir.Node, ids: Ids) -> list[Axes]:
    axes, groups = ids.of(node.inputs[0]), node.attributes.get_int("num_groups", 1)
    if axes[1] is None or len(axes[1]) % groups:
        raise UnruledError("its channels do not divide into its groups")
    table = axes[1].reshape(groups, -1).T
    ids.tie_rows(table)
    for value in node.inputs[1:]:
        own = ids.of(value)[0]
        if own is not None:
            ids.tie(own, axes[1] if len(own) == len(axes[1]) else table[0])
    ids.pin(axes[2:], node, WHOLE)
    ids.note(axes[1], SHIFTED)
    return [list(axes)]


def _over_last_axes(node: ir.Node, ids: Ids) -> list[Axes]:
    """Keep an axis and all behind it whole: LayerNormalization, and Softmax before opset 13."""
    axes = ids.of(node.inputs[0])
    start = normalized(node.attributes.get_int("axis", -1), len(axes))
    if not only_first_output(node):
        raise UnruledError("statistics are read")
    for value in node.inputs[1:]:
        if value is not None:
            ids.pin(ids.of(value), node, WHOLE)
    return [_kept_whole(ids, node, axes, range(start, len(axes))), *[[] for _ in node.outputs[1:]]]


def _softmax(node: ir.Node, ids: Ids) -> list[Axes]:
    axes, graph = ids.of(node.inputs[0]), node.graph
    imports = graph.opset_imports if graph is not None else {}
    flattens = (imports.get("") or imports.get("ai.onnx") or 1) < 13
    start = normalized(node.attributes.get_int("axis", 1 if flattens else -1), len(axes))
    return [_kept_whole(ids, node, axes, range(start, len(axes) if flattens else start + 1))]


def _over_axis(node: ir.Node, ids: Ids) -> list[Axes]:
    axes = ids.of(node.inputs[0])
    place = node.attributes.get_int("axis", -1)
    if node.op_type == "CumSum":
        given = integers(node.inputs[1])
        if given is None:
            raise UnruledError("its axis is not constant")
        place = given[0]
    if node.op_type == "LRN":
        place = 1
    return [_kept_whole(ids, node, axes, [normalized(place, len(axes))])]


def _kept_whole(ids: Ids, node: ir.Node, axes: Axes, places: range | list[int]) -> Axes:
    ids.pin([axes[place] for place in places], node, WHOLE)
    for axis in axes:
        ids.note(axis, SHIFTED)
    return list(axes)


def _top_k(node: ir.Node, ids: Ids) -> list[Axes]:
    axes, shape = ids.of(node.inputs[0]), shape_of(ids, node.outputs[0])
    place = normalized(node.attributes.get_int("axis", -1), len(axes))
    made = _kept_whole(ids, node, axes, [place])
    made[place] = ids.fixed(shape[place : place + 1], node, WHOLE)[0]
    return [list(made) for _ in node.outputs]


def _reduce(node: ir.Node, ids: Ids) -> list[Axes]:
    axes = ids.of(node.inputs[0])
    if node.op_type.startswith("Arg"):
        given: tuple[int, ...] | None = (node.attributes.get_int("axis", 0),)
    else:
        given = axes_of(node, ids.facts)
    present = len(node.inputs) > 1 and node.inputs[1] is not None
    empty = node.attributes.get_int("noop_with_empty_axes", 0) != 0 and not given
    if given is None or empty or (present and not given):
        raise UnruledError("its axes are not constant")
    places = {normalized(axis, len(axes)) for axis in given} or set(range(len(axes)))
    made = _kept_whole(ids, node, axes, sorted(places))
    if node.attributes.get_int("keepdims", 1):
        return [[None if place in places else axis for place, axis in enumerate(made)]]
    return [[axis for place, axis in enumerate(made) if place not in places]]


def _resize(node: ir.Node, ids: Ids) -> list[Axes]:
    axes, shape = ids.of(node.inputs[0]), shape_of(ids, node.outputs[0])
    before = shape_of(ids, node.inputs[0])
    crops = node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize"
    if crops or "axes" in node.attributes or "keep_aspect_ratio_policy" in node.attributes:
        raise UnruledError("its axes are given in a way that is not followed")
    scales, by_sizes = _scales(node, len(axes)), len(node.inputs) > 3
    made: Axes = []
    for place, axis in enumerate(axes):
        same = before[place] == shape[place]
        if same and (by_sizes or (scales is not None and scales[place] == 1)):
            made.append(axis)
            continue
        ids.pin(axis, node, SPATIAL)
        made += ids.fixed(shape[place : place + 1], node, SPATIAL)
    if by_sizes:
        check_sizes(node, ids, made)
    return [made]


def _scales(node: ir.Node, rank: int) -> tuple[float, ...] | None:
    found = node.attributes.get_floats("scales")
    index = 1 if node.op_type == "Upsample" or len(node.inputs) == 2 else 2
    if found is None and len(node.inputs) > index:
        data = array(node.inputs[index])
        found = None if data is None else tuple(float(item) for item in data.reshape(-1))
    return tuple(found) if found is not None and len(found) == rank else None


def _quantize(node: ir.Node, ids: Ids) -> list[Axes]:
    axes = ids.of(node.inputs[0])
    if node.attributes.get_int("block_size", 0):
        raise UnruledError("it quantizes in blocks")
    for value in node.inputs[1:]:
        own = ids.of(value) if value is not None else []
        if len(own) > 1:
            raise UnruledError("it quantizes in blocks")
        if own and own[0] is not None:
            ids.tie(axes[normalized(node.attributes.get_int("axis", 1), len(axes))], own[0])
    for axis in axes:
        ids.note(axis, SHIFTED)
    return [list(axes)]


def _shape(node: ir.Node, ids: Ids) -> list[Axes]:
    """Keep whole the axes whose sizes are read."""
    axes, shape = ids.of(node.inputs[0]), shape_of(ids, node.outputs[0])
    places = range(len(axes))[
        node.attributes.get_int("start", 0) : node.attributes.get_int("end", len(axes))
    ]
    for place in elements_read(node.outputs[0], ids.facts):
        ids.pin(axes[places[place]], node, "the size of this axis is read")
    return [ids.fixed(shape, node, "they are sizes")]


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
_POOLS = ("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
NORMALIZATION_RULES = {
    **dict.fromkeys(("ArgMax", "ArgMin", *(f"Reduce{name}" for name in _REDUCTIONS)), _reduce),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(("CumSum", "LRN", "LpNormalization"), _over_axis),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _over_last_axes),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _quantize),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "BatchNormalization": _batch_normalization,
    "GroupNormalization": _group_normalization,
    "InstanceNormalization": _instance_normalization,
    "Shape": _shape,
    "TopK": _top_k,
}
