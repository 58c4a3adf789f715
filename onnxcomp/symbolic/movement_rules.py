"""The shapes that operators make which only move data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxcomp.graph import Array
from onnxcomp.symbolic.dims import (
    Dim,
    at_most,
    divide,
    equal,
    is_nonnegative,
    is_positive,
)
from onnxcomp.symbolic.facts import Facts
from onnxcomp.symbolic.operands import Found, Rule, Size, as_ints, axes_of, broadcast, normalized

# Exporters write some large number for "to the end": INT_MAX, INT64_MAX, or one less.
TO_THE_END = 2**31 - 2


def _transpose(node: ir.Node, facts: Facts) -> list[Found]:
    shape = facts.shape(node.inputs[0])
    if shape is None:
        return []
    perm = node.attributes.get_ints("perm") or list(range(len(shape)))[::-1]
    return [[shape[axis] for axis in perm]] if len(perm) == len(shape) else []


def _reshape(node: ir.Node, facts: Facts) -> list[Found]:
    source = facts.shape(node.inputs[0])
    if len(node.inputs) < 2:
        target: Array | None = None
        wanted = list(node.attributes.get_ints("shape", ()))
    else:
        target = facts.content(node.inputs[1])
        wanted = [] if target is None else list(target)
    if target is None and not wanted:
        rank = facts.shape(node.inputs[1]) if len(node.inputs) > 1 else None
        return [[None] * rank[0]] if rank and isinstance(rank[0], int) else []
    copies = node.attributes.get_int("allowzero", 0) == 0
    found: list[Size | None] = []
    for axis, item in enumerate(wanted):
        if isinstance(item, Dim) or item > 0:  # a dim of 0 copies one that must be 0 too
            found.append(item if is_nonnegative(item) else None)
        elif item == 0 and copies:
            found.append(source[axis] if source is not None and axis < len(source) else None)
        else:
            found.append(None if item else 0)
    return [_with_wildcard(source, wanted, found)]


def _with_wildcard(
    source: Sequence[Size] | None, wanted: Sequence[Size], found: list[Size | None]
) -> list[Size | None]:
    holes = [axis for axis, item in enumerate(found) if item is None]
    if source is None or len(holes) != 1:
        return found
    if not (equal(wanted[holes[0]], -1) or isinstance(wanted[holes[0]], Dim)):
        return found
    rest = _product([item for item in found if item is not None])
    if not is_positive(rest) and not _divides_plainly(source, rest):
        return found
    found[holes[0]] = divide(_product(source), rest)
    return found


def _divides_plainly(source: Sequence[Size], rest: Size) -> bool:
    quotient = divide(_product(source), rest)
    return quotient is not None and _product([quotient, rest]) == _product(source)


def _product(dims: Sequence[Size]) -> Size:
    total: Size = 1
    for dim in dims:
        total = total * dim
    return total


def _flatten(node: ir.Node, facts: Facts) -> list[Found]:
    source = facts.shape(node.inputs[0])
    if source is None:
        return [[None, None]]
    axis = normalized(node.attributes.get_int("axis", 1), len(source))
    return [[_product(source[:axis]), _product(source[axis:])]]


def _unsqueeze(node: ir.Node, facts: Facts) -> list[Found]:
    source, axes = facts.shape(node.inputs[0]), axes_of(node, facts)
    if source is None or axes is None:
        return []
    rank = len(source) + len(axes)
    places = {normalized(axis, rank) for axis in axes}
    rest = iter(source)
    return [[1 if axis in places else next(rest) for axis in range(rank)]]


def _squeeze(node: ir.Node, facts: Facts) -> list[Found]:
    source, axes = facts.shape(node.inputs[0]), axes_of(node, facts)
    if source is None or axes is None:
        return []
    if not axes:
        known = all(isinstance(dim, int) for dim in source)
        return [[dim for dim in source if dim != 1]] if known else []
    places = {normalized(axis, len(source)) for axis in axes}
    return [[dim for axis, dim in enumerate(source) if axis not in places]]


def _concat(node: ir.Node, facts: Facts) -> list[Found]:
    shapes = [facts.shape(value) for value in node.inputs]
    first = next((shape for shape in shapes if shape), None)
    if first is None or any(shape is not None and len(shape) != len(first) for shape in shapes):
        return []
    place = normalized(node.attributes.get_int("axis", 1), len(first))
    found: list[Size | None] = []
    for axis in range(len(first)):
        dims = [None if shape is None else shape[axis] for shape in shapes]
        if axis == place:
            known = [dim for dim in dims if dim is not None]
            found.append(sum(known) if len(known) == len(dims) else None)
        else:
            known = [dim for dim in dims if dim is not None]  # all must be equal
            found.append(next((dim for dim in known if isinstance(dim, int)), known[0]))
    return [found]


def _gather(node: ir.Node, facts: Facts) -> list[Found]:
    source, indices = facts.shape(node.inputs[0]), facts.shape(node.inputs[1])
    if source is None or indices is None:
        return []
    axis = normalized(node.attributes.get_int("axis", 0), len(source))
    return [[*source[:axis], *indices, *source[axis + 1 :]]]


def _split(node: ir.Node, facts: Facts) -> list[Found]:
    source = facts.shape(node.inputs[0])
    if source is None:
        return []
    axis = normalized(node.attributes.get_int("axis", 0), len(source))
    given: Sequence[Size] | None = node.attributes.get_ints("split")
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        content = facts.content(node.inputs[1])
        given = None if content is None else list(content)
        if given is None:
            return [[*source[:axis], None, *source[axis + 1 :]]] * len(node.outputs)
    if given is None:
        size, count = source[axis], len(node.outputs)
        if not isinstance(size, int) or size % count:
            return [[*source[:axis], None, *source[axis + 1 :]]] * count
        given = [size // count] * count
    return [[*source[:axis], size, *source[axis + 1 :]] for size in given]


def _slice(node: ir.Node, facts: Facts) -> list[Found]:
    source = facts.shape(node.inputs[0])
    if source is None:
        return []
    starts, ends, axes, steps = slice_operands(node, facts)
    places = as_ints(axes) if axes is not None else None
    if starts is None or ends is None or places is None or steps is None:
        return [[None] * len(source)]
    found: list[Size | None] = list(source)
    for start, end, axis, step in zip(starts, ends, places, steps, strict=True):
        place = normalized(axis, len(source))
        found[place] = _slice_size(source[place], start, end, step)
    return [found]


def slice_operands(node: ir.Node, facts: Facts) -> list[Array | None]:
    """Return starts, ends, axes and steps of a Slice, flat arrays; None for what is not known."""

    def operand(index: int, name: str) -> Array | None:
        if len(node.inputs) > index and node.inputs[index] is not None:
            found = facts.content(node.inputs[index])
            return None if found is None else found.reshape(-1)
        given = node.attributes.get_ints(name)
        return None if given is None else np.array(given, dtype=object)

    starts, ends = operand(1, "starts"), operand(2, "ends")
    count = 0 if starts is None else len(starts)
    present = [len(node.inputs) > index and node.inputs[index] is not None for index in (3, 4)]
    axes = operand(3, "axes") if present[0] or "axes" in node.attributes else None
    if axes is None and not present[0] and "axes" not in node.attributes:
        axes = np.arange(count).astype(object)
    steps = operand(4, "steps") if present[1] else np.ones(count, dtype=object)
    return [starts, ends, axes, steps]


def bound(value: Size, dim: Size) -> Size | None:
    """Return a start or end of a slice with step 1 counted from the front and cut to [0, dim]."""
    if not isinstance(value, Dim):
        if value < 0:
            return None if isinstance(dim, Dim) else max(value + dim, 0)
        if not isinstance(dim, Dim):
            return min(value, dim)
        return 0 if value == 0 else dim if value >= TO_THE_END else None
    if value == dim:
        return dim
    return at_most(value, dim) if not isinstance(dim, Dim) and is_nonnegative(value) else None


def _slice_size(dim: Size, start: Size, end: Size, step: Size) -> Size | None:
    if not any(isinstance(item, Dim) for item in (dim, start, end, step)):
        return len(range(int(dim))[int(start) : int(end) : int(step)])
    if step != 1:
        return None
    first, last = bound(start, dim), bound(end, dim)
    if first is None or last is None:
        return None
    size = last - first
    return size if first == 0 or not isinstance(size, Dim) else None


def _expand(node: ir.Node, facts: Facts) -> list[Found]:
    target = facts.content(node.inputs[1])
    return [] if target is None else [broadcast(facts.shape(node.inputs[0]), list(target))]


def _tile(node: ir.Node, facts: Facts) -> list[Found]:
    source = facts.shape(node.inputs[0])
    repeats = facts.content(node.inputs[1]) if len(node.inputs) == 2 else None
    if source is None or repeats is None or len(repeats) != len(source):
        return []
    return [[dim * times for dim, times in zip(source, repeats, strict=True)]]


def _constant_of_shape(node: ir.Node, facts: Facts) -> list[Found]:
    content = facts.content(node.inputs[0])
    return [] if content is None else [list(content.reshape(-1))]


def _pad(node: ir.Node, facts: Facts) -> list[Found]:
    source = facts.shape(node.inputs[0])
    if source is None:
        return []
    pads: Sequence[int] | None = node.attributes.get_ints("pads")
    if len(node.inputs) > 1:
        pads = as_ints(facts.content(node.inputs[1]))
    if pads is None or len(pads) != 2 * len(source) or len(node.inputs) > 3:
        return [[None] * len(source)]
    count = len(source)
    return [[dim + pads[axis] + pads[axis + count] for axis, dim in enumerate(source)]]


MOVEMENT_RULES: dict[str, Rule] = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
