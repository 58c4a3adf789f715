"""What nodes carry of channel counts and indices, written anew when channels go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxcomp.channels.movement_rules import pads_of, slice_ranges
from onnxcomp.channels.sizes import SIZE_OPERANDS, count_of, sizes_read
from onnxcomp.edits import add_constant
from onnxcomp.graph import integers, tensor
from onnxcomp.symbolic.facts import Facts, Shape
from onnxcomp.symbolic.movement_rules import slice_operands
from onnxcomp.symbolic.operands import as_ints, normalized


class Cut:
    """What is known of a model before the cut, and which indices go along which axes."""

    def __init__(self, facts: Facts, gone: Mapping[tuple[ir.Value, int], NDArray[np.intp]]) -> None:
        self.facts = facts
        self._gone = gone
        self._values = {value for value, _ in gone}

    def touches(self, node: ir.Node) -> bool:
        """Say whether an operand or a result of a node loses anything."""
        if any(value in self._values for value in (*node.inputs, *node.outputs)):
            return True
        read = sizes_read(node, self.facts) if node.op_type in SIZE_OPERANDS else ()
        return any(len(self.removed(each.value, each.axis)) for each in read)

    def removed(self, value: ir.Value | None, axis: int) -> NDArray[np.intp]:
        """Return the indices that go along an axis."""
        found = None if value is None else self._gone.get((value, axis))
        return np.zeros(0, np.intp) if found is None else found

    def left(self, value: ir.Value | None, axis: int) -> NDArray[np.intp]:
        """Return the indices that stay along an axis of known size."""
        return np.setdiff1d(np.arange(self.size(value, axis)), self.removed(value, axis))

    def size(self, value: ir.Value | None, axis: int) -> int:
        """Return the size of an axis before the cut."""
        dim = self.before(value)[axis]
        assert isinstance(dim, int)
        return dim

    def before(self, value: ir.Value | None) -> Shape:
        """Return a shape before the cut."""
        shape = self.facts.shape(value)
        assert shape is not None
        return shape

    def after(self, value: ir.Value | None) -> Shape:
        """Return a shape after the cut."""
        return tuple(
            dim - len(self.removed(value, axis)) if isinstance(dim, int) else dim
            for axis, dim in enumerate(self.before(value))
        )


def _group_count(node: ir.Node, cut: Cut) -> None:
    """Give a depthwise layer as many groups as it has channels."""
    channels = cut.before(node.inputs[0])[1]
    if node.attributes.get_int("group", 1) == channels and channels != 1:
        _set_int(node, "group", cut.after(node.inputs[0])[1])


def _norm_groups(node: ir.Node, cut: Cut) -> None:
    old, new = cut.before(node.inputs[0])[1], cut.after(node.inputs[0])[1]
    assert isinstance(old, int)
    assert isinstance(new, int)
    _set_int(node, "num_groups", node.attributes.get_int("num_groups", 1) * new // old)


def _set_int(node: ir.Node, name: str, value: object) -> None:
    assert isinstance(value, int)
    node.attributes[name] = ir.AttrInt64(name, value)


def _split(node: ir.Node, cut: Cut) -> None:
    axis = normalized(node.attributes.get_int("axis", 0), len(cut.before(node.inputs[0])))
    if not len(cut.removed(node.inputs[0], axis)):
        return
    sizes = [len(cut.left(output, axis)) for output in node.outputs]
    graph = node.graph
    assert graph is not None
    imports = graph.opset_imports
    if (imports.get("") or imports.get("ai.onnx") or 1) < 13:
        node.attributes["split"] = ir.AttrInt64s("split", sizes)
        return
    node.attributes.pop("num_outputs", None)
    _give(node, 1, sizes, "sizes")


def _slice(node: ir.Node, cut: Cut) -> None:
    source = node.inputs[0]
    for axis, indices in slice_ranges(node, cut.facts).items():
        whole = np.array_equal(indices, np.arange(cut.size(source, axis)))
        if whole or not len(indices) or not len(cut.removed(source, axis)):
            continue
        places = np.searchsorted(
            cut.left(source, axis), np.setdiff1d(indices, cut.removed(source, axis))
        )
        if indices[0] > indices[-1]:
            places = places[::-1]
        steps = set(np.diff(places).tolist()) or {1}
        if len(steps) > 1 or (steps != {1} and "starts" in node.attributes):
            _gather_first(node, axis, places)
            places, steps = np.arange(len(places)), {1}
        _bound(node, cut, axis, int(places[0]), int(places[-1]), steps.pop())


def _gather_first(node: ir.Node, axis: int, places: NDArray[np.intp]) -> None:
    """Let a Gather take what is no range, and the Slice all of that."""
    graph, source = node.graph, node.inputs[0]
    assert isinstance(graph, ir.Graph)
    assert source is not None
    indices = add_constant(graph, places.astype(np.int64), f"{source.name}.kept")
    gather = ir.Node("", "Gather", [source, indices], [ir.AttrInt64("axis", axis)])
    gather.outputs[0].name, gather.outputs[0].type = f"{node.outputs[0].name}.kept", source.type
    graph.insert_before(node, gather)
    node.replace_input_with(0, gather.outputs[0])


def _bound(node: ir.Node, cut: Cut, axis: int, first: int, last: int, step: int) -> None:
    """Write the start, end and step of a Slice along one axis."""
    starts, ends, axes, steps = (as_ints(each) for each in slice_operands(node, cut.facts))
    assert starts is not None
    assert ends is not None
    assert axes is not None
    rank = len(cut.before(node.outputs[0]))
    entry = [normalized(each, rank) for each in axes].index(axis)
    end = last + (1 if step > 0 else -1)
    new = {"starts": [*starts], "ends": [*ends], "steps": [*(steps or [1] * len(starts))]}
    new["starts"][entry], new["steps"][entry] = first, step
    new["ends"][entry] = end if end >= 0 else -(2**31)
    if "starts" in node.attributes:
        for name in ("starts", "ends"):
            node.attributes[name] = ir.AttrInt64s(name, new[name])
        return
    _give(node, 1, new["starts"], "starts")
    _give(node, 2, new["ends"], "ends")
    if step != 1 or (len(node.inputs) > 4 and node.inputs[4] is not None):
        if len(node.inputs) < 4 or node.inputs[3] is None:
            _give(node, 3, list(axes), "axes")
        _give(node, 4, new["steps"], "steps")


def _gather(node: ir.Node, cut: Cut) -> None:
    axis = normalized(node.attributes.get_int("axis", 0), len(cut.before(node.inputs[0])))
    removed, known = cut.removed(node.inputs[0], axis), integers(node.inputs[1])
    if not len(removed) or known is None:
        return
    size, shape = cut.size(node.inputs[0], axis), cut.before(node.inputs[1])
    picked = np.array([normalized(index, size) for index in known], np.intp)
    places = np.searchsorted(cut.left(node.inputs[0], axis), picked[~np.isin(picked, removed)])
    new = places if len(shape) == 1 else places.reshape([int(dim) for dim in shape])
    _give(node, 1, new, "indices")


def _pad(node: ir.Node, cut: Cut) -> None:
    pads, rank = list(pads_of(node, cut.facts) or ()), len(cut.before(node.inputs[0]))
    old = list(pads)
    for axis in range(rank):
        front, inner = old[axis], cut.before(node.inputs[0])[axis]
        removed = cut.removed(node.outputs[0], axis)
        if len(removed) and isinstance(inner, int):
            pads[axis] -= int((removed < front).sum())
            pads[axis + rank] -= int((removed >= front + inner).sum())
    if pads == old:
        return
    if len(node.inputs) > 1:
        _give(node, 1, pads, "pads")
    else:
        node.attributes["pads"] = ir.AttrInt64s("pads", pads)


def _sizes(node: ir.Node, cut: Cut) -> None:
    """Write the sizes that a Reshape, Expand or Resize is given."""
    index = SIZE_OPERANDS[node.op_type]
    operand = node.inputs[index] if len(node.inputs) > index else None
    if operand is None:
        return
    before, after = cut.after(node.inputs[0]), cut.after(node.outputs[0])
    lost = [a for a in range(len(after)) if len(cut.removed(node.outputs[0], a))]
    constant = integers(operand)
    if constant is not None:
        new = _new_sizes(constant, before, after, lost)
        if new != list(constant):
            _give(node, index, new, "sizes")
        return
    count = count_of(operand, cut.facts)
    assert count is not None
    _join_anew(node, index, after[len(after) - count :])


def _new_sizes(
    constant: Sequence[int], before: Shape, after: Shape, lost: Sequence[int]
) -> list[int]:
    offset, new = len(constant) - len(after), list(constant)
    for axis in lost:
        entry = axis + offset
        if entry < 0 or new[entry] in (1, -1):
            continue
        if new[entry] == 0 and axis < len(before) and before[axis] == after[axis]:
            continue
        new[entry] = int(after[axis])
    return new


def _join_anew(node: ir.Node, index: int, sizes: Shape) -> None:
    """Give a node the sizes that are numbers as such, and those of open dims as it had them."""
    if all(isinstance(size, int) for size in sizes):
        _give(node, index, sizes, "sizes")
        return
    graph, operand, name = node.graph, node.inputs[index], f"{node.outputs[0].name}.sizes"
    assert isinstance(graph, ir.Graph)
    assert operand is not None
    pieces = []
    for place, size in enumerate(sizes):
        if isinstance(size, int):
            pieces.append(add_constant(graph, np.array([size], np.int64), name))
            continue
        number = add_constant(graph, np.array([place], np.int64), name)
        gather = ir.Node("", "Gather", [operand, number], [ir.AttrInt64("axis", 0)])
        gather.outputs[0].name = f"{name}{place}"
        gather.outputs[0].type = operand.type
        graph.insert_before(node, gather)
        pieces.append(gather.outputs[0])
    joined = ir.Node("", "Concat", pieces, [ir.AttrInt64("axis", 0)])
    joined.outputs[0].name, joined.outputs[0].type = f"{name}.all", operand.type
    graph.insert_before(node, joined)
    node.replace_input_with(index, joined.outputs[0])


def _give(node: ir.Node, index: int, numbers: object, name: str) -> None:
    """Give a node a new constant of integers as an operand, of the type that the old one has."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    old = tensor(node.inputs[index]) if len(node.inputs) > index else None
    kind = np.int32 if old is not None and old.dtype == ir.DataType.INT32 else np.int64
    value = add_constant(graph, np.asarray(numbers, kind), f"{node.outputs[0].name}.{name}")
    if len(node.inputs) <= index:
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)


REWRITES: dict[str, Callable[[ir.Node, Cut], None]] = {
    **dict.fromkeys(SIZE_OPERANDS, _sizes),
    "Conv": _group_count,
    "ConvTranspose": _group_count,
    "Gather": _gather,
    "GroupNormalization": _norm_groups,
    "Pad": _pad,
    "Slice": _slice,
    "Split": _split,
}
