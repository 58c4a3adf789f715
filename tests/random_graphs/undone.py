"""Steps that undo each other, wholly or nearly."""

from __future__ import annotations

import numpy as np

from random_graphs.builder import BATCH, Dim, Graph, Item, Shape, is_image
from random_graphs.layouts import moved, with_axes


def there_and_back(g: Graph) -> None:
    """Two steps of which the second undoes the first, wholly or nearly."""
    x = g.find(lambda item: item.rank >= 1 and any(d not in (BATCH, 0) for d in item.shape))
    if x is None:
        return
    axis = g.pick([axis for axis, dim in enumerate(x.shape) if dim not in (BATCH, 0)])
    way = g.pick([_split_and_join, _join_and_cut, _pad_and_crop, _twice_squeezed, _gathered_back])
    way(g, x, axis)


def _split_and_join(g: Graph, x: Item, axis: int) -> None:
    size = int(x.shape[axis])
    if g.opset < 10 or size < 2:
        return
    middle = g.number(1, size - 1)
    parts = []
    for low, high in ((0, middle), (middle, size)):
        shape = (*x.shape[:axis], high - low, *x.shape[axis + 1 :])
        operands = [x, g.ints(low), g.ints(high), g.ints(g.axis(axis, x.rank))]
        parts.append(moved(g, "Slice", x, operands, shape))
    if g.flip(4):
        parts.reverse()
    if None not in parts:
        moved(g, "Concat", x, parts, x.shape, axis=axis)


def _join_and_cut(g: Graph, x: Item, axis: int) -> None:
    y = g.add("Neg", [x], x.shape, bound=x.bound, noise=x.noise)
    size = int(x.shape[axis])
    shape = (*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
    z = y and moved(g, "Concat", x, [x, y], shape, axis=axis)
    if z is None or g.opset < 10:
        return
    low = g.pick([0, size, size - 1])
    operands = [z, g.ints(low), g.ints(low + size), g.ints(axis)]
    moved(g, "Slice", z, operands, x.shape)


def _pad_and_crop(g: Graph, x: Item, axis: int) -> None:
    if g.opset < 11:
        return
    for sign in (1, -1):
        pads = [0] * (2 * x.rank)
        pads[axis], pads[axis + x.rank] = sign, sign * g.number(0, 1)
        grown = int(x.shape[axis]) + pads[axis] + pads[axis + x.rank]
        shape = (*x.shape[:axis], grown, *x.shape[axis + 1 :])
        padded = moved(g, "Pad", x, [x, g.ints(*pads)], shape)
        if padded is None:
            return
        x = padded


def _twice_squeezed(g: Graph, x: Item, axis: int) -> None:
    shape: list[Dim] = list(x.shape)
    places = [g.number(0, x.rank), g.number(0, x.rank + 1)]
    for place in places:
        shape.insert(place, 1)
        made = with_axes(g, "Unsqueeze", x, [g.axis(place, len(shape))], shape, 13)
        if made is None:
            return
        x = made
    for place in reversed(places) if g.flip() else [_first_one(x.shape)] * 2:
        place = place if place < len(shape) and shape[place] == 1 else _first_one(tuple(shape))
        axes = [g.axis(place, len(shape))]
        del shape[place]
        made = with_axes(g, "Squeeze", x, axes, shape, 13)
        if made is None:
            return
        x = made


def _first_one(shape: Shape) -> int:
    return shape.index(1)


def _gathered_back(g: Graph, x: Item, axis: int) -> None:
    size = int(x.shape[axis])
    for _ in range(2):
        order = list(range(size))
        if g.flip():
            order.reverse()
        indices = g.constant(np.array(order, np.int64))
        made = moved(g, "Gather", x, [x, indices], x.shape, axis=g.axis(axis, x.rank))
        if made is None:
            return
        x = made


def resize(g: Graph) -> None:
    x = g.find(is_image)
    if x is None or g.opset < 11 or x.rank != 4 or 0 in x.shape:
        return
    factor = g.number(1, 2)
    scales = g.constant(np.array([1, 1, factor, factor], np.float32))
    shape = (*x.shape[:2], *(int(dim) * factor for dim in x.shape[2:]))
    none = None if g.opset >= 13 else g.constant(np.array([], np.float32))
    moved(g, "Resize", x, [x, none, scales], shape, mode="nearest",
          coordinate_transformation_mode="asymmetric")  # fmt: skip
