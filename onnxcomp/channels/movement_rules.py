"""What operators do to channels that only move data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxcomp.channels.elementwise_rules import tie_broadcast
from onnxcomp.channels.ids import Axes, Axis, Ids, UnruledError
from onnxcomp.channels.sizes import check_sizes
from onnxcomp.channels.splits import reshape
from onnxcomp.graph import integers
from onnxcomp.symbolic.facts import Facts, Shape
from onnxcomp.symbolic.movement_rules import slice_operands
from onnxcomp.symbolic.operands import as_ints, axes_of, normalized

UNKNOWN_SHAPE = "the shape of its result is not known"


def shape_of(ids: Ids, value: ir.Value | None) -> Shape:
    """Return a shape; raise where no rank is known."""
    shape = ids.facts.shape(value)
    if shape is None:
        raise UnruledError(UNKNOWN_SHAPE)
    return shape


def _transpose(node: ir.Node, ids: Ids) -> list[Axes]:
    axes = ids.of(node.inputs[0])
    order = node.attributes.get_ints("perm") or range(len(axes))[::-1]
    return [[axes[axis] for axis in order]]


def _unsqueeze(node: ir.Node, ids: Ids) -> list[Axes]:
    axes, added = ids.of(node.inputs[0]), axes_of(node, ids.facts)
    if not added:
        raise UnruledError("its axes are not constant")
    rank = len(axes) + len(added)
    places, rest = {normalized(axis, rank) for axis in added}, iter(axes)
    return [[None if axis in places else next(rest) for axis in range(rank)]]


def _squeeze(node: ir.Node, ids: Ids) -> list[Axes]:
    axes, removed = ids.of(node.inputs[0]), axes_of(node, ids.facts)
    shape = shape_of(ids, node.inputs[0])
    if removed is None or (not removed and not all(isinstance(dim, int) for dim in shape)):
        raise UnruledError("its axes are not constant")
    places = {normalized(axis, len(axes)) for axis in removed}
    places = places or {axis for axis, dim in enumerate(shape) if dim == 1}
    if any(axes[axis] is not None for axis in places):
        raise UnruledError("it removes an axis of several indices")
    return [[axis for place, axis in enumerate(axes) if place not in places]]


def _reshape(node: ir.Node, ids: Ids) -> list[Axes]:
    before, after = shape_of(ids, node.inputs[0]), shape_of(ids, node.outputs[0])
    axes = reshape(node, ids, before, after)
    if node.op_type == "Reshape":
        check_sizes(node, ids, axes)
    return [axes]


def _concat(node: ir.Node, ids: Ids) -> list[Axes]:
    shape = shape_of(ids, node.outputs[0])
    place = normalized(node.attributes.get_int("axis", 1), len(shape))
    axes: Axes = list(ids.of(node.inputs[0]))
    pieces: list[NDArray[np.intp]] = []
    for value in node.inputs:
        own, dims = ids.of(value), shape_of(ids, value)
        pieces.append(_piece(own[place], dims[place], ids, node))
        for axis in set(range(len(shape))) - {place}:
            ids.tie(axes[axis], own[axis])
    joined = np.concatenate(pieces)
    axes[place] = joined if isinstance(shape[place], int) and len(joined) > 1 else None
    if not isinstance(shape[place], int):
        ids.pin(pieces, node, "it is joined with something of open size")
    return [axes]


def _piece(axis: Axis, dim: object, ids: Ids, node: ir.Node) -> NDArray[np.intp]:
    if axis is not None:
        return axis
    single = ids.fixed((2,), node, "a single channel")[0]
    return single[: int(dim == 1)] if single is not None else np.zeros(0, np.intp)


def _split(node: ir.Node, ids: Ids) -> list[Axes]:
    axes, source = ids.of(node.inputs[0]), shape_of(ids, node.inputs[0])
    place = normalized(node.attributes.get_int("axis", 0), len(axes))
    sizes = [shape_of(ids, output)[place] for output in node.outputs]
    whole = axes[place]
    if not isinstance(source[place], int) or not all(isinstance(size, int) for size in sizes):
        raise UnruledError("its sizes are not constant")
    if whole is None or sum(sizes) != len(whole):
        raise UnruledError("its sizes do not add up")
    pieces = np.split(whole, np.cumsum([int(size) for size in sizes])[:-1])
    for piece in pieces:
        if len(piece) == 1:
            ids.pin(piece, node, "it takes a single channel")
    return [
        [*axes[:place], piece if len(piece) > 1 else None, *axes[place + 1 :]] for piece in pieces
    ]


def _slice(node: ir.Node, ids: Ids) -> list[Axes]:
    axes = list(ids.of(node.inputs[0]))
    given = [value for value in node.inputs[1:] if value is not None]
    is_constant = all(integers(value) is not None for value in given)
    for place, indices in slice_ranges(node, ids.facts).items():
        whole = axes[place]
        if not is_constant and whole is not None and not np.array_equal(whole[indices], whole):
            ids.pin(whole, node, "where it starts and ends is computed")
        axes[place] = _taken(axes[place], indices, ids, node)
    return [axes]


def slice_ranges(node: ir.Node, facts: Facts) -> dict[int, NDArray[np.intp]]:
    """Return the indices that a Slice takes of each of its axes of known size; raise if unknown."""
    shape = facts.shape(node.inputs[0]) or ()
    starts, ends, axes, steps = slice_operands(node, facts)
    places = as_ints(axes)
    if places is None:
        raise UnruledError("its axes are not constant")
    found: dict[int, NDArray[np.intp]] = {}
    for entry, axis in enumerate(places):
        place = normalized(axis, len(shape))
        dim = shape[place]
        if not isinstance(dim, int) or dim == 1:
            continue
        bounds = [None if each is None else as_ints(each[entry : entry + 1])
                  for each in (starts, ends, steps)]  # fmt: skip
        if any(bound is None for bound in bounds):
            raise UnruledError("where it starts and ends is not constant")
        found[place] = np.arange(dim)[slice(*(int(bound[0]) for bound in bounds if bound))]
    return found


def _taken(axis: Axis, indices: NDArray[np.intp], ids: Ids, node: ir.Node) -> Axis:
    if axis is None:
        return None
    found = axis[indices]
    if len(found) == 1:
        ids.pin(found, node, "it takes a single channel")
        return None
    return found


def _gather(node: ir.Node, ids: Ids) -> list[Axes]:
    axes, shape = ids.of(node.inputs[0]), shape_of(ids, node.inputs[0])
    place = normalized(node.attributes.get_int("axis", 0), len(axes))
    indices, known = shape_of(ids, node.inputs[1]), integers(node.inputs[1])
    middle: Axes = list(ids.of(node.inputs[1]))
    if known is None or len(indices) != 1 or not isinstance(shape[place], int):
        picked = axes[place]
        if known is not None and picked is not None:
            picked = picked[np.array(known, np.intp)]
        ids.pin(picked, node, "it takes these by number")
        ids.pin(middle, node, "they are indices")
    else:
        ids.pin(middle, node, "they are indices")
        source = axes[place]
        middle = [_taken(source, np.array(known, np.intp), ids, node)]
        if source is None and len(known) > 1:
            middle = ids.fixed((len(known),), node, "it repeats a single channel")
    return [[*axes[:place], *middle, *axes[place + 1 :]]]


def _expand(node: ir.Node, ids: Ids) -> list[Axes]:
    shape = shape_of(ids, node.outputs[0])
    axes: Axes = [None] * len(shape)
    tie_broadcast(ids, node, node.inputs[:1], axes, shape)
    for place, dim in enumerate(shape):
        if axes[place] is None and isinstance(dim, int) and dim > 1:
            axes[place] = ids.new(dim)
    check_sizes(node, ids, axes)
    return [axes]


def _tile(node: ir.Node, ids: Ids) -> list[Axes]:
    axes, repeats = ids.of(node.inputs[0]), integers(node.inputs[1])
    if repeats is None or len(repeats) != len(axes):
        raise UnruledError("its repeats are not constant")
    dims = shape_of(ids, node.inputs[0])
    found: Axes = []
    for axis, times, dim in zip(axes, repeats, dims, strict=True):
        if axis is not None:
            found.append(np.tile(axis, times))
        elif dim == 1:
            found.append(ids.fixed((times,), node, "it repeats a single channel")[0])
        else:
            found.append(None)
    return [found]


def _pad(node: ir.Node, ids: Ids) -> list[Axes]:
    axes, pads = ids.of(node.inputs[0]), pads_of(node, ids.facts)
    shape = shape_of(ids, node.outputs[0])
    if pads is None or len(pads) != 2 * len(axes):
        raise UnruledError("its pads are not constant")
    given = len(node.inputs) < 2 or integers(node.inputs[1]) is not None
    constant = given and node.attributes.get_string("mode", "constant") == "constant"
    found: Axes = []
    for place, axis in enumerate(axes):
        front, behind = pads[place], pads[place + len(axes)]
        if front == behind == 0:
            found.append(axis)
        elif axis is not None and constant and min(front, behind) >= 0:
            found.append(np.concatenate([ids.new(front), axis, ids.new(behind)]))
        else:
            ids.pin(axis, node, "it pads this axis")
            found += ids.fixed(shape[place : place + 1], node, "it pads this axis")
    return [found]


def pads_of(node: ir.Node, facts: Facts) -> Sequence[int] | None:
    """Return the pads of a Pad of all axes where they are known, or None."""
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        return None
    if len(node.inputs) > 1:
        return as_ints(facts.content(node.inputs[1]))
    return node.attributes.get_ints("pads")


def _depth_to_space(node: ir.Node, ids: Ids) -> list[Axes]:
    axes, block = ids.of(node.inputs[0]), node.attributes.get_int("blocksize", 1)
    shape, reason = shape_of(ids, node.outputs[0]), "it moves between these places"
    ids.pin(axes[2:], node, reason)
    if axes[1] is None:
        raise UnruledError("the number of its channels is not known")
    inner = node.attributes.get_string("mode", "DCR") == "CRD"
    table = axes[1].reshape(-1, block * block).T if inner else axes[1].reshape(block * block, -1)
    ids.tie_rows(table)
    made = table[0] if table.shape[1] > 1 else None
    return [[axes[0], made, *ids.fixed(shape[2:], node, reason)]]


def _space_to_depth(node: ir.Node, ids: Ids) -> list[Axes]:
    axes, block = ids.of(node.inputs[0]), node.attributes.get_int("blocksize", 1)
    shape, reason = shape_of(ids, node.outputs[0]), "it moves between these places"
    ids.pin(axes[2:], node, reason)
    made = ids.fixed(shape[1:2], node, reason)[0]
    if axes[1] is not None:
        made = np.tile(axes[1], block * block)
    return [[axes[0], made, *ids.fixed(shape[2:], node, reason)]]


MOVEMENT_RULES = {
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _reshape,
    "Gather": _gather,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
