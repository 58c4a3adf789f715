"""What shape arithmetic computes, element by element, by operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxcomp.graph import Array
from onnxcomp.symbolic.dims import Dim, divide, equal, is_nonnegative, less
from onnxcomp.symbolic.facts import INTEGERS, MAX_CONTENT, Facts
from onnxcomp.symbolic.movement_rules import slice_operands
from onnxcomp.symbolic.operands import as_ints, axes_of

Rule = Callable[[ir.Node, Facts], "Array | None"]
Item = Any  # int, bool or Dim


def _shape(node: ir.Node, facts: Facts) -> Array | None:
    dims = facts.shape(node.inputs[0])
    if dims is None:
        return None
    start = node.attributes.get_int("start", 0)
    end = node.attributes.get_int("end", len(dims))
    return _objects(dims[start:end])  # negative and too large bounds mean what they do in Python


def _size(node: ir.Node, facts: Facts) -> Array | None:
    dims = facts.shape(node.inputs[0])
    if dims is None:
        return None
    total: Item = 1
    for dim in dims:
        total = total * dim
    return _objects(total)


def _objects(items: Item) -> Array:
    if not isinstance(items, (tuple, list)):
        scalar = np.empty((), dtype=object)
        scalar[()] = items
        return scalar
    found = np.empty(len(items), dtype=object)
    found[:] = items
    return found


def _as_array(found: Item) -> Array:
    """Return what numpy made of objects as an array; it unwraps those without dims."""
    return found if isinstance(found, np.ndarray) else _objects(found)


def _same(node: ir.Node, facts: Facts) -> Array | None:
    return facts.content(node.inputs[0])


def _cast(node: ir.Node, facts: Facts) -> Array | None:
    source = facts.content(node.inputs[0])
    kind = ir.DataType(node.attributes.get_int("to", 0))
    if source is None or kind not in INTEGERS:
        return None
    from_bool = facts.kind(node.inputs[0]) == ir.DataType.BOOL
    if kind == ir.DataType.BOOL or from_bool:
        numbers = as_ints(source)
        convert = bool if kind == ir.DataType.BOOL else int
        return (
            None
            if numbers is None
            else _objects([convert(i) for i in numbers]).reshape(source.shape)
        )
    if kind == ir.DataType.INT32 and not all(_fits_int32(item) for item in source.flat):
        return None
    return source


def _fits_int32(item: Item) -> bool:
    return isinstance(item, Dim) or -(2**31) <= item < 2**31


def _gather(node: ir.Node, facts: Facts) -> Array | None:
    source, indices = facts.content(node.inputs[0]), facts.content(node.inputs[1])
    if source is None or indices is None or as_ints(indices) is None:
        return None
    axis = node.attributes.get_int("axis", 0)
    try:
        return _as_array(np.take(source, indices.astype(np.int64), axis=axis))
    except (IndexError, ValueError):
        return None


def _slice(node: ir.Node, facts: Facts) -> Array | None:
    source = facts.content(node.inputs[0])
    operands = [as_ints(operand) for operand in slice_operands(node, facts)]
    known = [operand for operand in operands if operand is not None]
    if source is None or len(known) < len(operands) or 0 in known[3]:
        return None
    found = source
    for start, end, axis, step in zip(*known, strict=True):
        before_first = step < 0 and end < -source.shape[axis]
        cut = slice(start, None if before_first else end, step)
        found = found[(slice(None),) * (axis % source.ndim) + (cut,)]
    return found


def _transpose(node: ir.Node, facts: Facts) -> Array | None:
    source = facts.content(node.inputs[0])
    return None if source is None else source.transpose(node.attributes.get_ints("perm"))


def _concat(node: ir.Node, facts: Facts) -> Array | None:
    parts = [facts.content(value) for value in node.inputs]
    if any(part is None or part.ndim != 1 for part in parts):
        return None
    return np.concatenate([part for part in parts if part is not None])


def _split(node: ir.Node, facts: Facts) -> Array | None:
    return None if len(node.outputs) != 1 else facts.content(node.inputs[0])


def _unsqueeze(node: ir.Node, facts: Facts) -> Array | None:
    source, axes = facts.content(node.inputs[0]), axes_of(node, facts)
    return None if source is None or axes is None else np.expand_dims(source, axes)


def _squeeze(node: ir.Node, facts: Facts) -> Array | None:
    source, axes = facts.content(node.inputs[0]), axes_of(node, facts)
    if source is None or axes is None or any(source.shape[axis] != 1 for axis in axes):
        return None
    return np.squeeze(source, axes or None)


def _reshape(node: ir.Node, facts: Facts) -> Array | None:
    source = facts.content(node.inputs[0])
    target = as_ints(facts.content(node.inputs[1])) if len(node.inputs) > 1 else None
    if source is None or target is None or (0 in target):
        return None
    return source.reshape(target) if source.size or -1 not in target else None


def _expand(node: ir.Node, facts: Facts) -> Array | None:
    source, target = facts.content(node.inputs[0]), as_ints(facts.content(node.inputs[1]))
    if source is None or target is None:
        return None
    shape = np.broadcast_shapes(source.shape, target)
    return np.broadcast_to(source, shape) if np.prod(shape) <= MAX_CONTENT else None


def _constant_of_shape(node: ir.Node, facts: Facts) -> Array | None:
    shape = as_ints(facts.content(node.inputs[0]))
    if shape is None or np.prod(shape) > MAX_CONTENT or "value" not in node.attributes:
        return None
    value = node.attributes["value"].as_tensor()
    if value.dtype not in INTEGERS:
        return None
    return np.full(shape, value.numpy().reshape(-1)[0].item(), dtype=object)


def _arithmetic(combine: Callable[[Item, Item], Item]) -> Rule:
    def rule(node: ir.Node, facts: Facts) -> Array | None:
        parts = [facts.content(value) for value in node.inputs]
        if any(part is None for part in parts) or "axis" in node.attributes:
            return None
        found = parts[0]
        for part in parts[1:]:
            found = _combined(found, part, combine, facts)
        return found

    return rule


def _combined(
    first: Array | None, second: Array | None, combine: Callable[[Item, Item], Item], facts: Facts
) -> Array | None:
    if first is None or second is None:
        return None
    shape = np.broadcast_shapes(first.shape, second.shape)
    left, right = np.broadcast_to(first, shape), np.broadcast_to(second, shape)
    found = np.empty(shape, dtype=object)
    for index in np.ndindex(*shape):
        item = combine(left[index], right[index])
        found[index] = facts.new_number() if item is None else item
    return found


def _unary(convert: Callable[[Item], Item]) -> Rule:
    def rule(node: ir.Node, facts: Facts) -> Array | None:
        source = facts.content(node.inputs[0])
        if source is None:
            return None
        found = np.empty(source.shape, dtype=object)
        for index, item in np.ndenumerate(source):
            result = convert(item)
            found[index] = facts.new_number() if result is None else result
        return found

    return rule


def _not(item: Item) -> Item:
    return None if isinstance(item, Dim) else not item


def _absolute(item: Item) -> Item:
    return item if is_nonnegative(item) else -item if is_nonnegative(-item) else None


def _minimum(first: Item, second: Item) -> Item:
    if less(first, second) or first == second:
        return first
    return second if less(second, first) or is_nonnegative(first - second) else None


def _maximum(first: Item, second: Item) -> Item:
    found = _minimum(first, second)
    return None if found is None else first + second - found


def _both(first: Item, second: Item) -> Item:
    if isinstance(first, Dim) or isinstance(second, Dim):
        return False if first is False or second is False else None
    return bool(first and second)


def _either(first: Item, second: Item) -> Item:
    if isinstance(first, Dim) or isinstance(second, Dim):
        return True if first is True or second is True else None
    return bool(first or second)


def _at_least(first: Item, second: Item) -> Item:
    found = less(first, second)
    return None if found is None else not found


def _where(node: ir.Node, facts: Facts) -> Array | None:
    chosen, first, second = (facts.content(value) for value in node.inputs)
    if chosen is None or first is None or second is None:
        return None
    shape = np.broadcast_shapes(chosen.shape, first.shape, second.shape)
    chosen, first, second = (np.broadcast_to(item, shape) for item in (chosen, first, second))
    found = np.empty(shape, dtype=object)
    for index in np.ndindex(*shape):
        if isinstance(chosen[index], Dim):
            same = first[index] == second[index]
            found[index] = first[index] if same else facts.new_number()
        else:
            found[index] = first[index] if chosen[index] else second[index]
    return found


def _reduce(combine: Callable[[Item, Item], Item], start: int) -> Rule:
    def rule(node: ir.Node, facts: Facts) -> Array | None:
        source, axes = facts.content(node.inputs[0]), axes_of(node, facts)
        if source is None or source.ndim != 1 or axes is None or not set(axes) <= {0, -1}:
            return None
        if not axes and node.attributes.get_int("noop_with_empty_axes", 0) != 0:
            return source
        total: Item = start
        for item in source:
            total = combine(total, item)
        return _objects([total] if node.attributes.get_int("keepdims", 1) else total)

    return rule


def _range(node: ir.Node, facts: Facts) -> Array | None:
    numbers = [as_ints(facts.content(value)) for value in node.inputs]
    if any(item is None for item in numbers):
        return None
    start, limit, step = (item[0] for item in numbers if item is not None)
    if step == 0 or len(range(start, limit, step)) > MAX_CONTENT:
        return None
    return _objects(list(range(start, limit, step)))


CONTENT_RULES: dict[str, Rule] = {
    "Abs": _unary(_absolute),
    "Add": _arithmetic(lambda a, b: a + b),
    "And": _arithmetic(_both),
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _arithmetic(divide),
    "Equal": _arithmetic(equal),
    "Expand": _expand,
    "Gather": _gather,
    "Greater": _arithmetic(lambda a, b: less(b, a)),
    "GreaterOrEqual": _arithmetic(_at_least),
    "Identity": _same,
    "Less": _arithmetic(less),
    "LessOrEqual": _arithmetic(lambda a, b: _at_least(b, a)),
    "Max": _arithmetic(_maximum),
    "Min": _arithmetic(_minimum),
    "Mul": _arithmetic(lambda a, b: a * b),
    "Neg": _unary(lambda a: -a),
    "Not": _unary(_not),
    "Or": _arithmetic(_either),
    "Range": _range,
    "ReduceProd": _reduce(lambda a, b: a * b, 1),
    "ReduceSum": _reduce(lambda a, b: a + b, 0),
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": _arithmetic(lambda a, b: a - b),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
