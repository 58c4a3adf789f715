"""A graph that is being drawn: typed values of known shapes, bounds and rounding.

Each value carries its shape (`N` stands for the batch), a bound of its magnitude, and a bound of
the noise that reordered roundings may give it. Operators that jump (comparisons, Floor, casts to
integers) read only values without noise, so that no rounding can turn into a real difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeVar

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from onnxcomp.graph import Array

T = TypeVar("T")
Dim = int | str
Shape = tuple[Dim, ...]

BATCH = "N"
MAX_ELEMENTS = 1500
MAX_BOUND = 200.0
MAX_NOISE = 1e-3
ROUNDING = 1e-6  # of one operation, relative to the bound of its result
Make = Callable[["Graph"], None]
CODES = {"f": onnx.TensorProto.FLOAT, "i": onnx.TensorProto.INT64, "b": onnx.TensorProto.BOOL}


@dataclass(frozen=True)
class Item:
    """A value of the graph: `kind` is f (float32), i (int64) or b (bool)."""

    name: str
    kind: str
    shape: Shape
    bound: float = 1.0
    noise: float = 0.0
    constant: bool = False

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def elements(self) -> int:
        return math.prod(4 if dim == BATCH else int(dim) for dim in self.shape)


@cache
def between(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(low, high)


@dataclass
class Graph:
    """What is drawn so far of a graph or a branch; a branch sees the values of those around it."""

    draw: st.DrawFn
    opset: int
    rng: np.random.Generator
    names: Iterator[str]
    items: list[Item] = field(default_factory=list)
    outer: tuple[Item, ...] = ()
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    depth: int = 0
    chained: bool = False

    # ------------------------------------------------------------ drawing
    def number(self, low: int, high: int) -> int:
        return self.draw(between(low, high)) if high > low else low

    def flip(self, one_in: int = 2) -> bool:
        """Draw a boolean that is true once in so many times, and shrinks to false."""
        return self.number(0, one_in - 1) == one_in - 1

    def pick(self, options: Sequence[T]) -> T:
        return options[self.number(0, len(options) - 1)]

    def find(self, wanted: Callable[[Item], bool], kind: str = "f") -> Item | None:
        """Draw a value that fits; the latest ones are the likeliest, so that patterns form."""
        pool = [item for item in (*self.outer, *self.items) if item.kind == kind and wanted(item)]
        if not pool:
            return None
        if self.chained and self.items and pool[-1] is self.items[-1]:
            return pool[-1]
        near = len(pool) if self.flip(4) else min(2, len(pool))
        return pool[-1 - self.number(0, near - 1)]

    # ------------------------------------------------------------ making
    def node(
        self, op: str, inputs: Sequence[Item | None], outputs: int = 1, **attributes: Any
    ) -> list[str]:
        """Add a node and return the names of its outputs."""
        names = [next(self.names) for _ in range(outputs)]
        read = [item.name if item is not None else "" for item in inputs]
        kept = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(op, read, names, **kept))
        return names

    def add(
        self,
        op: str,
        inputs: Sequence[Item | None],
        shape: Sequence[Dim],
        *,
        kind: str = "f",
        bound: float = 1.0,
        noise: float = 0.0,
        **attributes: Any,
    ) -> Item | None:
        """Add a node of one output, unless it gets too large, too noisy or too long."""
        constant = all(item is None or item.constant for item in inputs)
        item = Item("", kind, tuple(shape), bound, noise, constant)
        limit = MAX_BOUND if kind == "f" else 1e6
        if item.elements > MAX_ELEMENTS or bound > limit or noise > MAX_NOISE or item.rank > 5:
            return None
        (name,) = self.node(op, inputs, **attributes)
        self.items.append(replace(item, name=name))
        return self.items[-1]

    def constant(self, data: Array) -> Item:
        """Add a constant in one of the ways that there are."""
        kind = {np.dtype(np.float32): "f", np.dtype(np.int64): "i"}.get(data.dtype, "b")
        bound = float(np.abs(data.astype(np.float64)).max()) if data.size else 0.0
        way = self.number(0, 4)
        if way < 3:
            name = next(self.names)
            self.weights.append(numpy_helper.from_array(data, name))
        elif way == 3 and self.opset >= 12 and kind != "b" and data.ndim <= 1:
            stem = {"f": "value_float", "i": "value_int"}[kind]
            value = data.item() if data.ndim == 0 else data.tolist()
            if data.ndim == 1 and not data.size:
                (name,) = self.node("Constant", [], value=numpy_helper.from_array(data))
            else:
                (name,) = self.node("Constant", [], **{stem + "s" * data.ndim: value})
        else:
            (name,) = self.node("Constant", [], value=numpy_helper.from_array(data))
        return Item(name, kind, data.shape, bound, constant=True)

    def ints(self, *numbers: int) -> Item:
        return self.constant(np.array(numbers, np.int64))

    def floats(self, *shape: int, low: float = 0.25, high: float = 2.0) -> Item:
        """Add random numbers away from zero, of both signs; some are all 0, 1 or -1."""
        special = self.number(0, 11)
        data = self.rng.uniform(low, high, shape) * self.rng.choice([-1.0, 1.0], shape)
        if special >= 9:
            data = np.full(shape, special - 10.0)
        return self.constant(np.asarray(data, np.float32))

    def positives(self, *shape: int) -> Item:
        return self.constant(np.asarray(self.rng.uniform(0.5, 2.0, shape), np.float32))

    def weight(self, fan_in: int, *shape: int) -> Item:
        """Add the weight of a product whose result is not larger than twice what it reads."""
        return self.floats(*shape, low=0.25 / fan_in, high=2.0 / fan_in)

    def axis(self, axis: int, rank: int) -> int:
        """Return an axis as it is or counted from the end."""
        return axis - rank if self.opset >= 11 and self.flip(3) else axis


def broadcast(first: Shape, second: Shape) -> Shape | None:
    """Return the shape of two operands together, or None when they do not fit for any batch."""
    rank = max(len(first), len(second))
    result: list[Dim] = []
    for a, b in zip(
        (1,) * (rank - len(first)) + first, (1,) * (rank - len(second)) + second, strict=True
    ):
        if a != b and 1 not in (a, b):
            return None
        result.append(b if a == 1 else a)
    return tuple(result)


def is_image(item: Item) -> bool:
    return item.rank in (3, 4) and all(dim != BATCH for dim in item.shape[1:])


def numbered(prefix: str) -> Iterator[str]:
    count = 0
    while True:
        yield f"{prefix}{count}"
        count += 1
