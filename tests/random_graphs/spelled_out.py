"""Functions as exporters spell them out in simple operators, some of them slightly wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from random_graphs.builder import BATCH, ROUNDING, Graph, Item, Shape, broadcast

ROOM = 20.0  # of the bounds: what is squared and rooted here must stay small
SLACK = 30.0  # times the rounding of one operation: of all that are in a row here


class Writer:
    """Adds the operators of one function of `x`, all of them of the bound and noise of its end."""

    def __init__(self, g: Graph, x: Item, bound: float, slope: float) -> None:
        self.g, self.bound = g, bound
        self.noise = slope * x.noise + SLACK * ROUNDING * max(bound, 1.0)
        self.last: Item | None = x

    def number(self, value: float) -> Item:
        """Return a constant, now and then another one than the function wants."""
        value = value * 1.25 if self.g.flip(20) else value
        shape = self.g.pick([(), (), (1,), (1, 1)])
        return self.g.constant(np.full(shape, value, np.float32))

    def node(self, op: str, inputs: Sequence[Item | None], **more: Any) -> Item | None:
        """Add an operator whose result has the shape of its largest operand."""
        present = [item for item in inputs if item is not None]
        if len(present) < len(inputs) or not present:
            return None
        if op in ("Add", "Mul", "Min", "Max") and self.g.flip(3):
            present.reverse()
        shape: Shape | None = more.pop("shape", None)
        if shape is None:
            shape = reduce(lambda a, b: broadcast(a, b) or a, (item.shape for item in present))
        return self.g.add(op, present, shape, bound=self.bound, noise=self.noise, **more)


def spelled_out(g: Graph) -> None:
    x = g.find(lambda item: item.bound <= ROOM and item.rank >= 2)
    if x is not None:
        g.pick(
            [_layer_norm, _gelu, _tanh_gelu, _hard_sigmoid, _mish, _limits, _softmax, _layer_norm]
        )(g, x)


def _gelu(g: Graph, x: Item) -> None:
    w = Writer(g, x, x.bound + 2, 3)
    a = w.node(*(("Div", [x, w.number(math.sqrt(2))]) if g.flip() else
                 ("Mul", [x, w.number(math.sqrt(0.5))])))  # fmt: skip
    c = w.node("Add", [w.node("Erf", [a]), w.number(1.0)])
    if g.flip():
        w.node("Mul", [w.node("Mul", [x, c]), w.number(0.5)])
    else:
        w.node("Mul", [w.node("Mul", [x, w.number(0.5)]), c])


def _tanh_gelu(g: Graph, x: Item) -> None:
    w = Writer(g, x, max(x.bound, 2) ** 3 + 2, 4 * x.bound**2 + 4)
    cube = w.node("Pow", [x, g.constant(np.array(3.0, np.float32))])
    inner = w.node("Add", [x, w.node("Mul", [cube, w.number(0.044715)])])
    t = w.node("Tanh", [w.node("Mul", [inner, w.number(math.sqrt(2 / math.pi))])])
    half = w.node("Mul", [x, w.number(0.5)])
    w.node("Mul", [half, w.node("Add", [t, w.number(1.0)])])


def _hard_sigmoid(g: Graph, x: Item) -> None:
    w = Writer(g, x, x.bound * 6 + 6, 6)
    a = w.node("Add", [x, w.number(3.0)])
    if g.opset < 11:
        b = w.node("Clip", [a], min=0.0, max=6.0)
    elif g.flip():
        b = w.node("Min", [w.node("Relu", [a]), w.number(6.0)])
    else:
        b = w.node("Clip", [a, *(g.constant(np.array(end, np.float32)) for end in (0.0, 6.0))])
    if g.flip():
        b = w.node("Mul", [x, b])
    w.node(*(("Div", [b, w.number(6.0)]) if g.flip() else ("Mul", [b, w.number(1 / 6)])))


def _mish(g: Graph, x: Item) -> None:
    w = Writer(g, x, x.bound + 2, 3)
    softplus = w.node("Softplus", [x])
    w.node("Mul", [x, w.node("Tanh", [softplus])])


def _limits(g: Graph, x: Item) -> None:
    w = Writer(g, x, x.bound + 1, 1)
    ends = [g.pick([-1.0, 0.0, 0.5]), g.pick([0.25, 0.5, 1.0])]
    first, second = ("Max", "Min") if g.flip() else ("Min", "Max")
    if first == "Min":
        ends.reverse()
    w.node(second, [w.node(first, [x, w.number(ends[0])]), w.number(ends[1])])


def _mean(w: Writer, x: Item | None, keep: int | None = None) -> Item | None:
    if x is None:
        return None
    shape = (*x.shape[:-1], 1)
    axis = w.g.axis(x.rank - 1, x.rank)
    if w.g.opset >= 18:
        return w.node("ReduceMean", [x, w.g.ints(axis)], shape=shape, keepdims=keep)
    return w.node("ReduceMean", [x], shape=shape, axes=[axis], keepdims=keep)


def _layer_norm(g: Graph, x: Item) -> None:
    """A layer normalization, or without the mean one by the root mean square."""
    if x.shape[-1] in (BATCH, 0):
        return
    last = int(x.shape[-1])
    w = Writer(g, x, max(x.bound, 2) ** 2 * 4 + 8, 8 * max(x.bound, 1) ** 2)
    d = w.node("Sub", [x, _mean(w, x)], shape=x.shape) if g.flip() else x
    two = g.constant(np.array(2.0, np.float32))
    square = w.node("Mul", [d, d]) if g.flip() else w.node("Pow", [d, two])
    root = w.node("Sqrt", [w.node("Add", [_mean(w, square), w.number(0.5)])])
    y = w.node("Div", [d, root], shape=x.shape)
    y = w.node("Mul", [y, g.floats(last)])
    if g.flip():
        w.node("Add", [y, g.floats(last)])


def _softmax(g: Graph, x: Item) -> None:
    """exp(x - max) / sum over the last axis."""
    if x.shape[-1] in (BATCH, 0) or g.opset < 13:
        return
    w = Writer(g, x, x.bound * 2 + 8, 8)
    shape = (*x.shape[:-1], 1)
    axis = g.axis(x.rank - 1, x.rank)
    operands: list[Item | None] = [x, g.ints(axis)] if g.opset >= 18 else [x]
    axes = None if g.opset >= 18 else [axis]
    top = w.node("ReduceMax", operands, shape=shape, axes=axes)
    e = w.node("Exp", [w.node("Sub", [x, top], shape=x.shape)])
    total = w.node("ReduceSum", [e, g.ints(axis)], shape=shape)
    w.node("Div", [e, total], shape=x.shape)
