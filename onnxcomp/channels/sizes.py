"""Where the numbers come from that Reshape, Resize and Expand take as sizes."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxcomp.channels.ids import Axes, Ids
from onnxcomp.graph import integers, is_op
from onnxcomp.symbolic.facts import Facts, Shape
from onnxcomp.symbolic.movement_rules import slice_operands
from onnxcomp.symbolic.operands import as_ints, normalized

# The operand of these that holds sizes of their result.
SIZE_OPERANDS = {"Reshape": 1, "Expand": 1, "Resize": 3}
COMPUTED = "the shape it is given is computed"
_PASS_ON = ("Cast", "Identity", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class Piece:
    """An element of a constant that is an input of a Concat."""

    joined: ir.Node
    index: int
    element: int


@dataclass(frozen=True)
class Size:
    """The size of a value's axis, read by a Shape."""

    value: ir.Value
    axis: int


def sizes_operand(node: ir.Node) -> ir.Value | None:
    """Return the operand of a node that holds sizes."""
    index = SIZE_OPERANDS[node.op_type]
    return node.inputs[index] if len(node.inputs) > index else None


def origin(value: ir.Value | None, place: int, facts: Facts) -> Piece | Size | None:
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


def _piece(node: ir.Node, place: int, facts: Facts) -> Piece | Size | None:
    for index, value in enumerate(node.inputs):
        count = count_of(value, facts)
        if count is None:
            return None
        if place < count:
            if integers(value) is not None:
                return Piece(node, index, place)
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


def tie_sizes(node: ir.Node, ids: Ids, axes: Axes) -> None:
    """Tie axes of a result to those whose sizes it is given; keep whole what cannot follow.

    Of `axes`, those are None that do not change whatever the node is given.
    """
    operand, facts = sizes_operand(node), ids.facts
    if operand is None or constant_sizes(node, facts) is not None:
        return
    offset = (count_of(operand, facts) or 0) - len(axes)
    for place, axis in enumerate(axes):
        found = origin(operand, place + offset, facts) if place + offset >= 0 else None
        if isinstance(found, Size):
            read = ids.of(found.value)[found.axis]
            if read is not None and axis is not None:
                ids.tie(axis, read)
            else:
                ids.pin([read, axis], node, COMPUTED)
        elif found is None or casts_between(operand, found.joined) is None:
            ids.pin(axis, node, COMPUTED)


def casts_between(value: ir.Value, joined: ir.Node) -> list[ir.Node] | None:
    """Return the Casts between a Concat and a value, the last first, or None for other nodes."""
    found: list[ir.Node] = []
    node = value.producer()
    while node is not None and node is not joined and is_op(node, "Cast", "Identity"):
        found.append(node)
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return found if node is joined else None


def constant_sizes(node: ir.Node, facts: Facts) -> list[int] | None:
    """Return the sizes that a node is given, as a constant that says the same, or None."""
    constant = integers(sizes_operand(node))
    if node.attributes.get_int("allowzero", 0):
        return None
    if constant is not None:
        return list(constant)
    before, after = facts.shape(node.inputs[0]), facts.shape(node.outputs[0])
    if node.op_type != "Reshape" or len(node.inputs) < 2 or before is None or after is None:
        return None
    return written_target(before, after)


def sizes_read(node: ir.Node, facts: Facts) -> list[Size]:
    """Return the axes whose sizes a node is given, as far as they can be followed."""
    operand = sizes_operand(node)
    places = range(count_of(operand, facts) or 0)
    found = [origin(operand, place, facts) for place in places]
    return [each for each in found if isinstance(each, Size)]


def pin_sizes(node: ir.Node, ids: Ids) -> None:
    """Keep whole the axes whose sizes a node is given that is not followed."""
    for each in sizes_read(node, ids.facts) if node.op_type in SIZE_OPERANDS else ():
        ids.pin(ids.of(each.value)[each.axis], node, COMPUTED)


def written_target(before: Shape, after: Shape) -> list[int] | None:
    """Return a constant target: 0 for an open dim that stays in its place, and one -1; or None."""
    found, wild = [], 0
    for place, dim in enumerate(after):
        if isinstance(dim, int):
            found.append(dim)
        elif place < len(before) and before[place] == dim:
            found.append(0)
        else:
            found.append(-1)
            wild += 1
    return found if wild <= 1 else None
