"""Operators that move, cut, join and reduce elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from random_graphs.builder import (
    BATCH,
    CODES,
    ROUNDING,
    Dim,
    Graph,
    Item,
    Shape,
    broadcast,
    is_image,
)


def any_kind(g: Graph) -> str:
    return "f" if not g.flip(6) else g.pick(["i", "b"])


def moved(
    g: Graph, op: str, x: Item, inputs: Sequence[Item | None], shape: Sequence[Dim], **more: Any
) -> Item | None:
    """Add a node whose result holds elements of `x`, or zeros."""
    return g.add(op, inputs, shape, kind=x.kind, bound=x.bound, noise=x.noise, **more)


def transpose(g: Graph) -> None:
    x = g.find(lambda item: item.rank >= 1, any_kind(g))
    if x is None:
        return
    perm = list(range(x.rank))
    if g.flip(3):
        moved(g, "Transpose", x, [x], x.shape[::-1])
        return
    perm = [perm.pop(g.number(0, len(perm) - 1)) for _ in range(x.rank)]
    moved(g, "Transpose", x, [x], [x.shape[axis] for axis in perm], perm=perm)


def _targets(g: Graph, shape: Shape) -> list[int] | None:
    """Return the operand of a Reshape that is legal for any batch."""
    dims = [dim for dim in shape if dim != BATCH]
    count = math.prod(int(dim) for dim in dims)
    factors = [n for n in (1, 2, 3, 4, 6, 8) if count and count % n == 0]
    split = g.pick(factors) if factors else 1
    new = g.pick([[count], [split, count // max(split, 1)], [int(dim) for dim in dims]])
    if g.flip(5):
        new = [1, *new]
    if BATCH in shape:
        return [0 if shape[0] == BATCH and g.flip() else -1, *new]
    if new and count and g.flip(3):
        new[g.number(0, len(new) - 1)] = -1
    return new


def resolved(shape: Shape, target: Sequence[int]) -> Shape:
    """Return the shape that a Reshape of `shape` gives."""
    result: list[Dim] = [shape[i] if dim == 0 else dim for i, dim in enumerate(target)]
    if -1 in target:
        rest = math.prod(int(d) for d in result if d not in (BATCH, -1))
        count = math.prod(int(d) for d in shape if d != BATCH)
        open_dim: Dim = count // rest if rest else 0
        if BATCH in shape and BATCH not in result:
            assert open_dim == 1
            open_dim = BATCH
        result[target.index(-1)] = open_dim
    return tuple(result)


def reshape(g: Graph) -> None:
    x = g.find(lambda item: item.elements > 0, any_kind(g))
    target = None if x is None else _targets(g, x.shape)
    if x is None or target is None:
        return
    shape = resolved(x.shape, target)
    moved(g, "Reshape", x, [x, g.ints(*target)], shape)


def reshape_by_shape(g: Graph) -> None:
    """Reshape to what Shape, Gather, Slice, Mul and Concat make of the shape of a value."""
    x = g.find(lambda item: item.elements > 0 and item.rank >= 2 and BATCH not in item.shape[1:])
    if x is None:
        return
    (name,) = g.node("Shape", [x])
    shape = Item(name, "i", (x.rank,), 100)
    first = _dim_of(g, x, shape, 0)
    if g.flip(3):
        g.node("Size", [x])
    rest = [int(dim) for dim in x.shape[1:]]
    if g.flip() and len(rest) >= 2:
        a, b = _dim_of(g, x, shape, 1), _dim_of(g, x, shape, 2)
        (name,) = g.node("Mul", [a, b])
        parts = [first, Item(name, "i", (1,), 100)]
        if rest[2:]:
            parts.append(g.ints(*rest[2:]))
        new: Shape = (x.shape[0], rest[0] * rest[1], *rest[2:])
    elif g.flip():
        parts, new = [first, g.ints(-1)], (x.shape[0], math.prod(rest))
    else:
        parts, new = [first, g.ints(1, *rest[::-1])], (x.shape[0], 1, *rest[::-1])
    (name,) = g.node("Concat", parts, axis=0)
    target = Item(name, "i", (len(new),), 100)
    if g.flip(4):
        (name,) = g.node("Cast", [target], to=CODES["i"])
        target = replace(target, name=name)
    moved(g, "Reshape", x, [x, target], new)


def _dim_of(g: Graph, x: Item, shape: Item, axis: int) -> Item:
    """Return one dim of a value as a tensor of one element."""
    way = g.number(0, 3)
    if way == 0:
        (name,) = g.node("Gather", [shape, g.ints(g.axis(axis, x.rank))], axis=0)
    elif way == 1:
        (name,) = g.node("Gather", [shape, g.constant(np.array(axis, np.int64))])
        scalar = Item(name, "i", (), 100)
        if g.opset < 13:
            (name,) = g.node("Unsqueeze", [scalar], axes=[0])
        else:
            (name,) = g.node("Unsqueeze", [scalar, g.ints(0)])
    elif way == 2 and g.opset >= 15:
        (name,) = g.node("Shape", [x], start=axis, end=axis + 1)
    elif g.opset >= 10:
        (name,) = g.node("Slice", [shape, g.ints(axis), g.ints(axis + 1), g.ints(0)])
    else:
        (name,) = g.node("Slice", [shape], starts=[axis], ends=[axis + 1])
    return Item(name, "i", (1,), 100)


def expand_by_shape(g: Graph) -> None:
    x = g.find(lambda item: item.rank >= 1)
    if x is None:
        return
    (name,) = g.node("Shape", [x])
    shape = Item(name, "i", (x.rank,), 100)
    if g.flip():
        value = helper.make_tensor("value", onnx.TensorProto.FLOAT, [1], [g.pick([0.0, 1.0, 0.5])])
        g.add("ConstantOfShape", [shape], x.shape, value=value)
        return
    y = g.find(lambda item: broadcast(item.shape, x.shape) == x.shape)
    if y is not None:
        moved(g, "Expand", y, [y, shape], x.shape)


def expand(g: Graph) -> None:
    x = g.find(lambda item: True, any_kind(g))
    if x is None:
        return
    target = [g.number(1, 3) if dim == 1 else 1 if dim == BATCH or g.flip() else int(dim)
              for dim in x.shape]  # fmt: skip
    if g.flip(3):
        target = [g.number(1, 2), *target]
    shape = broadcast(x.shape, tuple(target))
    if shape is not None:
        moved(g, "Expand", x, [x, g.ints(*target)], shape)


def tile(g: Graph) -> None:
    x = g.find(lambda item: item.rank >= 1)
    if x is None:
        return
    repeats = [1 if dim == BATCH else g.number(1, 2) for dim in x.shape]
    shape = [d if d == BATCH else int(d) * r for d, r in zip(x.shape, repeats, strict=True)]
    moved(g, "Tile", x, [x, g.ints(*repeats)], shape)


def flatten(g: Graph) -> None:
    x = g.find(lambda item: item.rank >= 1 and BATCH not in item.shape[1:])
    if x is None:
        return
    axis = g.number(1, x.rank) if x.shape[0] == BATCH else g.number(0, x.rank)
    head, tail = x.shape[:axis], x.shape[axis:]
    if BATCH in head:
        if math.prod(int(dim) for dim in head[1:]) != 1:
            return
        first: Dim = BATCH
    else:
        first = math.prod(int(dim) for dim in head)
    more = {"axis": axis - x.rank if axis < x.rank and g.opset >= 11 and g.flip(3) else axis}
    moved(g, "Flatten", x, [x], (first, math.prod(int(dim) for dim in tail)), **more)


def squeeze(g: Graph) -> None:
    x = g.find(lambda item: 1 in item.shape, any_kind(g))
    if x is None:
        return
    ones = [axis for axis, dim in enumerate(x.shape) if dim == 1]
    axes = [axis for axis in ones if g.flip()] or ones[:1]
    shape = [dim for axis, dim in enumerate(x.shape) if axis not in axes]
    with_axes(g, "Squeeze", x, [g.axis(axis, x.rank) for axis in axes], shape, 13)


def unsqueeze(g: Graph) -> None:
    x = g.find(lambda item: item.rank <= 3, any_kind(g))
    if x is None:
        return
    count = g.number(1, 2)
    axes = sorted({g.number(0, x.rank + count - 1) for _ in range(count)})
    rest = iter(x.shape)
    rank = x.rank + len(axes)
    if axes[-1] >= rank:
        return
    shape = [1 if axis in axes else next(rest) for axis in range(rank)]
    with_axes(g, "Unsqueeze", x, [g.axis(axis, rank) for axis in axes], shape, 13)


def with_axes(
    g: Graph, op: str, x: Item, axes: Sequence[int], shape: Sequence[Dim], since: int, **more: Any
) -> Item | None:
    """Add a node whose axes are an attribute before an opset and an input from it on."""
    bound, noise = more.pop("bound", x.bound), more.pop("noise", x.noise)
    if g.opset < since:
        return g.add(op, [x], shape, kind=x.kind, bound=bound, noise=noise, axes=axes, **more)
    operands = [x, g.ints(*axes)]
    return g.add(op, operands, shape, kind=x.kind, bound=bound, noise=noise, **more)


def slicing(g: Graph) -> None:
    x = g.find(lambda item: any(d not in (BATCH, 0) for d in item.shape), any_kind(g))
    if x is None or (x.kind != "f" and g.opset < 10):
        return
    starts, ends, steps, shape = [], [], [], list(x.shape)
    axes: list[int] = []
    whole = g.flip(3)
    for axis, dim in enumerate(x.shape):
        if dim in (BATCH, 0) or (g.flip() and axes):
            continue
        size = int(dim)
        start, step = g.number(0, size - 1), 1
        stop = g.number(start + 1, size)
        if whole or g.flip():
            start = 0
        if whole or g.flip():
            stop = size
        shape[axis] = stop - start
        if stop == size and g.flip():
            stop = g.pick([2**31 - 1, 2**63 - 1, size + 5])
        if g.opset >= 10 and g.flip(4):
            step = g.pick([2, -1])
            shape[axis] = -(-int(shape[axis]) // 2) if step == 2 else size
            if step == -1:
                start, stop = size - 1, -(2**31)
        elif g.flip(3):
            start -= size
        starts.append(start)
        ends.append(stop)
        axes.append(g.axis(axis, x.rank))
        steps.append(step)
    if g.opset < 10:
        moved(g, "Slice", x, [x], shape, starts=starts, ends=ends, axes=axes)
        return
    operands = [g.ints(*starts), g.ints(*ends), g.ints(*axes)]
    if set(steps) != {1} or g.flip(3):
        operands.append(g.ints(*steps))
    moved(g, "Slice", x, [x, *operands], shape)


def concat(g: Graph) -> None:
    x = g.find(lambda item: any(dim != BATCH for dim in item.shape), any_kind(g))
    if x is None:
        return
    axis = g.pick([axis for axis, dim in enumerate(x.shape) if dim != BATCH])

    def fits(item: Item) -> bool:
        if item.rank != x.rank or item.shape[axis] == BATCH:
            return False
        return item.shape[:axis] + item.shape[axis + 1 :] == x.shape[:axis] + x.shape[axis + 1 :]

    others = [g.find(fits, x.kind) or x for _ in range(g.number(1, 2))]
    parts = [x, *others]
    shape = list(x.shape)
    shape[axis] = sum(int(part.shape[axis]) for part in parts)
    g.add("Concat", parts, shape, kind=x.kind, bound=max(part.bound for part in parts),
          noise=max(part.noise for part in parts), axis=g.axis(axis, x.rank))  # fmt: skip


def splitting(g: Graph) -> None:
    x = g.find(lambda item: any(d != BATCH and int(d) >= 2 for d in item.shape))
    if x is None:
        return
    axis = g.pick([axis for axis, dim in enumerate(x.shape) if dim != BATCH and int(dim) >= 2])
    size = int(x.shape[axis])
    first = g.number(1, size - 1)
    sizes, even = [first, size - first], size % 2 == 0 and g.flip()
    more: dict[str, Any] = {"axis": g.axis(axis, x.rank)}
    operands: list[Item | None] = [x]
    if even:
        sizes = [size // 2] * 2
        more["num_outputs"] = 2 if g.opset >= 18 else None
    elif g.opset < 13:
        more["split"] = sizes
    else:
        operands.append(g.ints(*sizes))
    for name, part in zip(g.node("Split", operands, 2, **more), sizes, strict=True):
        shape = (*x.shape[:axis], part, *x.shape[axis + 1 :])
        g.items.append(replace(x, name=name, shape=shape))


def gather(g: Graph) -> None:
    x = g.find(lambda item: item.rank >= 1 and 0 not in item.shape, any_kind(g))
    if x is None:
        return
    axis = g.number(0, x.rank - 1)
    size = 1 if x.shape[axis] == BATCH else int(x.shape[axis])
    low = -size if g.opset >= 11 else 0
    shape = g.pick([(), (1,), (2,), (2, 1)])
    count = math.prod(shape)
    indices = np.array([g.number(low, size - 1) for _ in range(count)], np.int64).reshape(shape)
    new = (*x.shape[:axis], *shape, *x.shape[axis + 1 :])
    moved(g, "Gather", x, [x, g.constant(indices)], new, axis=g.axis(axis, x.rank))


def padding(g: Graph) -> None:
    x = g.find(lambda item: item.rank >= 1 and 0 not in item.shape)
    if x is not None:
        pad(g, x)


def pad(g: Graph, x: Item) -> Item | None:
    """Pad some axes; mostly the spatial ones, mostly by zeros."""
    pads = [[0, 0] for _ in x.shape]
    shape = list(x.shape)
    for axis in range(x.rank):
        if shape[axis] == BATCH or (axis < 2 and not g.flip(6)):
            continue
        pads[axis] = [g.number(0, 1), g.number(0, 1)]
        shape[axis] = int(shape[axis]) + sum(pads[axis])
    mode = g.pick([None, None, None, "edge"])
    flat = [pair[side] for side in (0, 1) for pair in pads]
    value = g.pick([None, 0.0, 0.0, 1.0])
    bound = max(x.bound, value or 0.0)
    if g.opset < 11:
        return g.add("Pad", [x], shape, bound=bound, noise=x.noise, pads=flat, mode=mode,
                     value=value)  # fmt: skip
    fill = None if value is None else g.constant(np.array(value, np.float32))
    operands: list[Item | None] = [x, g.ints(*flat), fill]
    if g.opset >= 18 and g.flip(3):
        axes = [axis for axis, pair in enumerate(pads) if any(pair)] or [x.rank - 1]
        flat = [pads[axis][side] for side in (0, 1) for axis in axes]
        operands = [x, g.ints(*flat), fill, g.ints(*(g.axis(axis, x.rank) for axis in axes))]
    while operands[-1] is None:
        operands.pop()
    return g.add("Pad", operands, shape, bound=bound, noise=x.noise, mode=mode)


def depth_to_space(g: Graph) -> None:
    x = g.find(lambda item: item.rank == 4 and is_image(item) and int(item.shape[1]) % 4 == 0)
    if x is not None:
        n, c, h, w = x.shape
        shape = (n, int(c) // 4, int(h) * 2, int(w) * 2)
        moved(g, "DepthToSpace", x, [x], shape, blocksize=2)


def reduction(g: Graph) -> None:
    x = g.find(lambda item: item.rank >= 1 and 0 not in item.shape)
    if x is None:
        return
    op = g.pick([f"Reduce{name}" for name in ("Mean", "Sum", "Max", "Min", "L2", "SumSquare")])
    axes = [axis for axis, dim in enumerate(x.shape) if g.flip()] or [x.rank - 1]
    keep = g.pick([None, 0, 1])
    shape: list[Dim] = [
        1 if axis in axes else dim
        for axis, dim in enumerate(x.shape)
        if keep != 0 or axis not in axes
    ]
    count = math.prod(4 if x.shape[axis] == BATCH else int(x.shape[axis]) for axis in axes)
    exact = op in ("ReduceMax", "ReduceMin")
    bound, slope = x.bound, 1.0
    if op in ("ReduceSum", "ReduceL2"):
        bound, slope = x.bound * count, count
    elif op == "ReduceSumSquare":
        bound, slope = x.bound**2 * count, 2 * x.bound * count
    noise = x.noise if exact else slope * x.noise + ROUNDING * bound
    since = 13 if op == "ReduceSum" else 18
    axes = [g.axis(axis, x.rank) for axis in axes]
    with_axes(g, op, x, axes, shape, since, bound=bound, noise=noise, keepdims=keep)


def arg_max(g: Graph) -> None:
    x = g.find(lambda item: item.rank >= 1 and item.noise == 0 and 0 not in item.shape)
    if x is None:
        return
    axis = g.number(0, x.rank - 1)
    shape = [1 if i == axis else dim for i, dim in enumerate(x.shape)]
    g.add(g.pick(["ArgMax", "ArgMin"]), [x], shape, kind="i", bound=10, axis=g.axis(axis, x.rank))
