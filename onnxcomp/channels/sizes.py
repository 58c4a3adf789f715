"""Where the numbers come from that Reshape, Resize and Expand take as sizes."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxcomp.channels.ids import Axes, Ids
from onnxcomp.graph import integers, is_op
from onnxcomp.symbolic.dims import Dim
from onnxcomp.symbolic.facts import Facts
from onnxcomp.symbolic.movement_rules import slice_operands
from onnxcomp.symbolic.operands import as_ints, normalized

# The operand of these that holds sizes of their result.
SIZE_OPERANDS = {"Reshape": 1, "Expand": 1, "Resize": 3}
COMPUTED = "the shape it is given is computed"
_PASS_ON = ("Cast", "Identity", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class Size:
    """The size of a value's axis, read by a Shape."""

    value: ir.Value
    axis: int


def sizes_operand(node: ir.Node) -> ir.Value | None:
    """Return the operand of a node that holds sizes."""
    index = SIZE_OPERANDS[node.op_type]
    return node.inputs[index] if len(node.inputs) > index else None


def origin(value: ir.Value | None, place: int, facts: Facts) -> Size | None:
    """Return where an element of a vector of sizes comes from, or None where that is not known."""
    node = None if value is None else value.producer()
    if node is None or value is None:
        return None
    if is_op(node, "Shape") and node.inputs[0] is not None:
        start = node.attributes.get_int("start", 0)
        rank = len(facts.shape(node.inputs[0]) or ())
        return Size(node.inputs[0], place + normalized(start, rank))
    if is_op(node, *_PASS_ON) and count_of(node.inputs[0], facts) == count_of(value, facts):
        return origin(node.inputs[0], place, facts)
    if is_op(node, "Concat"):
        return _piece(node, place, facts)
    if is_op(node, "Gather", "Slice"):
        taken = _taken(node, facts)
        if taken is not None and place < len(taken):
            return origin(node.inputs[0], taken[place], facts)
    return None


def _piece(node: ir.Node, place: int, facts: Facts) -> Size | None:
    for value in node.inputs:
        count = count_of(value, facts)
        if count is None:
            return None
        if place < count:
            return origin(value, place, facts)
        place -= count
    return None


def count_of(value: ir.Value | None, facts: Facts) -> int | None:
    """Return the elements of a vector or scalar, or None."""
    shape = facts.shape(value)
    if shape is None or len(shape) > 1:
        return None
    return 1 if not shape else shape[0] if isinstance(shape[0], int) else None


def _taken(node: ir.Node, facts: Facts) -> list[int] | None:
    """Return which elements of a vector a Gather or Slice takes."""
    count = count_of(node.inputs[0], facts)
    if count is None:
        return None
    if node.op_type == "Gather":
        picked = integers(node.inputs[1])
        return None if picked is None else [normalized(element, count) for element in picked]
    bounds = [as_ints(operand) for operand in slice_operands(node, facts)]
    if any(bound is None or len(bound) != 1 for bound in bounds):
        return None
    start, end, _, step = (bound[0] for bound in bounds if bound is not None)
    return list(range(count)[start:end:step])


def elements_read(value: ir.Value, facts: Facts) -> set[int]:
    """Return the elements of a vector of sizes that are read in a way that cannot be followed.

    What ends as an operand of sizes is followed there.
    """
    count = count_of(value, facts) or 0
    everything = set(range(count))
    if value.is_graph_output():
        return everything
    maker = value.producer()
    found: set[int] = set()
    for reader, index in value.uses():
        if maker is None or reader.graph is not maker.graph:
            return everything
        if is_op(reader, *SIZE_OPERANDS) and index == SIZE_OPERANDS[reader.op_type]:
            continue
        places = _places_behind(reader, index, count, facts)
        if places is None:
            return everything
        lost = elements_read(reader.outputs[0], facts)
        found |= {before for before, behind in places if behind in lost}
    return found


def _places_behind(
    node: ir.Node, index: int, count: int, facts: Facts
) -> list[tuple[int, int]] | None:
    """Return (element before, element behind) of what a node passes on of one input."""
    if is_op(node, "Gather", "Slice"):
        taken = _taken(node, facts) if index == 0 else None
        return None if taken is None else [(before, place) for place, before in enumerate(taken)]
    if not is_op(node, "Concat") and (index or not is_op(node, *_PASS_ON)):
        return None
    counts = [count_of(value, facts) for value in node.inputs[:index]]
    if None in counts or count_of(node.outputs[0], facts) is None:
        return None
    start = sum(each for each in counts if each is not None)
    return [(place, start + place) for place in range(count)]


def check_sizes(node: ir.Node, ids: Ids, axes: Axes) -> None:
    """Keep whole the axes of a result, or those whose sizes it is given, that cannot follow.

    Sizes of the result that are numbers can be written anew, whatever they are computed from.
    """
    operand, facts = sizes_operand(node), ids.facts
    if operand is None or integers(operand) is not None:
        if node.attributes.get_int("allowzero", 0):
            ids.pin(axes, node, COMPUTED)
        return
    count = count_of(operand, facts)
    if count is None or node.attributes.get_int("allowzero", 0) != 0:
        ids.pin(axes, node, COMPUTED)
        pin_sizes(node, ids)
        return
    shape = facts.shape(node.outputs[0]) or ()
    for place in range(count):
        found = origin(operand, place, facts)
        if isinstance(shape[place - count], Dim) and found is not None:
            ids.pin(ids.of(found.value)[found.axis], node, COMPUTED)


def sizes_read(node: ir.Node, facts: Facts) -> list[Size]:
    """Return the axes whose sizes a node is given, as far as they can be followed."""
    operand = sizes_operand(node)
    places = range(count_of(operand, facts) or 0)
    found = [origin(operand, place, facts) for place in places]
    return [each for each in found if each is not None]


def pin_sizes(node: ir.Node, ids: Ids) -> None:
    """Keep whole the axes whose sizes a node is given that is not followed."""
    for each in sizes_read(node, ids.facts) if node.op_type in SIZE_OPERANDS else ():
        ids.pin(ids.of(each.value)[each.axis], node, COMPUTED)
