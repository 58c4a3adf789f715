"""Ids of channels: which indices of which axes must stay or go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxcomp.symbolic.facts import Facts, Shape

# An id per index of an axis; below 0 is a number of a reason for which the index must stay. None
# where the axis has one index or an open size: such an axis is never cut.
Axis = NDArray[np.intp] | None
Axes = list[Axis]
Role = Literal["maker", "reader", "depthwise"]

# What is noted of ids beside their ties.
HEAD = 1  # a batch axis of a product of two computed values
SUMMED = 2  # such a product sums over it
SHIFTED = 4  # an operator may make something else than 0 of 0


class UnruledError(Exception):
    """No rule holds for a node, and why."""


@dataclass(frozen=True)
class PortMark:
    """A node's weight axis, of which the ids are not yet grouped."""

    role: Role
    node: ir.Node
    value: ir.Value
    axis: int


@dataclass(frozen=True)
class Pair:
    """An axis before and one behind a Reshape with a digit in common.

    The digit of an index is index // `below` % `size`, with a `below` for each side.
    """

    source: int
    target: int
    size: int
    below: tuple[int, int]


@dataclass(frozen=True)
class Split:
    """A place where one of several pairs must be chosen."""

    node: ir.Node
    pairs: tuple[Pair, ...]
    source: Axes
    target: Axes


class Ids:
    """The ids of every axis of every value, as a union-find that is resolved in bulk.

    `axes` holds the ids by value, `marks` the weights that make or read channels, `splits` the
    Reshapes that are not decided on.
    """

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.axes: dict[ir.Value, Axes] = {}
        self.marks: list[PortMark] = []
        self.splits: list[Split] = []
        self.reasons: list[tuple[ir.Node | None, str]] = []
        self._parent = np.arange(1024)
        self._notes = np.zeros(1024, np.int8)
        self._pins = np.zeros(1024, np.intp)  # 1 + the number of a reason, 0 for none
        self._count = 0
        self._ties: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []

    # ------------------------------------------------------------ making
    def of(self, value: ir.Value | None) -> Axes:
        """Return the ids of a value's axes, new ones at first sight; raise without a rank."""
        shape = self.facts.shape(value)
        if value is None or shape is None:
            raise UnruledError("the shape of an input is not known")
        if value not in self.axes:
            self.axes[value] = self.new_axes(shape)
        return self.axes[value]

    def new_axes(self, shape: Shape) -> Axes:
        """Return new ids for each axis that has several indices."""
        return [self.new(dim) if isinstance(dim, int) and dim > 1 else None for dim in shape]

    def new(self, size: int) -> NDArray[np.intp]:
        """Return new ids."""
        start, self._count = self._count, self._count + size
        while self._count > len(self._parent):
            more = np.arange(len(self._parent), 2 * len(self._parent))
            self._parent = np.concatenate([self._parent, more])
            self._notes = np.concatenate([self._notes, np.zeros(len(more), np.int8)])
            self._pins = np.concatenate([self._pins, np.zeros(len(more), np.intp)])
        return np.arange(start, self._count)

    def fixed(self, shape: Shape, node: ir.Node | None, reason: str) -> Axes:
        """Return ids of axes that must stay whole."""
        code = self._code(node, reason)
        return [np.full(dim, code) if isinstance(dim, int) and dim > 1 else None for dim in shape]

    def _code(self, node: ir.Node | None, reason: str) -> int:
        if not self.reasons or self.reasons[-1] != (node, reason):
            self.reasons.append((node, reason))
        return -len(self.reasons)

    # ------------------------------------------------------------ stating
    def tie(self, first: Axis, second: Axis) -> None:
        """State that two axes of one size lose the same indices."""
        if first is None and second is None:
            return
        if first is None or second is None or first.shape != second.shape:
            raise UnruledError("two axes that should be equal have sizes that are not known to be")
        if first is second:
            return
        both = (first >= 0) & (second >= 0)
        self._ties.append((first[both], second[both]))
        self._stay(first[(second < 0) & (first >= 0)], second[(second < 0) & (first >= 0)])
        self._stay(second[(first < 0) & (second >= 0)], first[(first < 0) & (second >= 0)])

    def tie_rows(self, table: NDArray[np.intp]) -> None:
        """State that the ids of each column of a table go together."""
        for row in table[1:]:
            self.tie(table[0], row)

    def pin(self, axes: Axis | Sequence[Axis], node: ir.Node | None, reason: str) -> None:
        """State that all indices of axes must stay."""
        code = self._code(node, reason)
        for axis in [axes] if isinstance(axes, np.ndarray) else axes or ():
            if axis is not None:
                self._stay(axis[axis >= 0], code)

    def _stay(self, ids: NDArray[np.intp], codes: NDArray[np.intp] | int) -> None:
        known = self._pins[ids]
        self._pins[ids] = np.where(known == 0, -np.asarray(codes), known)

    def note(self, axis: Axis, what: int) -> None:
        """Note something of ids that holds for all that are tied to them."""
        if axis is not None:
            ids = axis[axis >= 0]
            self._notes[ids] = self._notes[ids] | what

    def mark(self, role: Role, node: ir.Node, value: ir.Value | None, axis: int) -> None:
        """Note that a node's weight makes or reads the channels along an axis of it."""
        assert value is not None
        self.marks.append(PortMark(role, node, value, axis))

    # ------------------------------------------------------------ asking
    def resolve(self) -> None:
        """Work off the ties stated since the last time."""
        if not self._ties:
            return
        first = np.concatenate([a for a, _ in self._ties])
        second = np.concatenate([b for _, b in self._ties])
        self._ties.clear()
        parent = self._parent
        while True:
            first, second = parent[first], parent[second]
            apart = first != second
            if not apart.any():
                break
            first, second = first[apart], second[apart]
            np.minimum.at(parent, np.maximum(first, second), np.minimum(first, second))
            while True:
                shorter = parent[parent]
                if np.array_equal(shorter, parent):
                    break
                parent[:] = shorter
        noted, pinned = np.flatnonzero(self._notes), np.flatnonzero(self._pins)
        np.bitwise_or.at(self._notes, parent[noted], self._notes[noted])
        first_pins = np.full(len(parent), np.iinfo(np.intp).max)
        np.minimum.at(first_pins, parent[pinned], self._pins[pinned])
        roots = np.unique(parent[pinned])
        self._pins[roots] = first_pins[roots]

    def roots(self, axis: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return one id for all that are tied together; those below 0 stay as they are."""
        return np.where(axis < 0, axis, self._parent[axis])

    def notes(self, axis: NDArray[np.intp]) -> NDArray[np.int8]:
        """Return what is noted of ids."""
        return np.where(axis < 0, np.int8(0), self._notes[self.roots(axis)])

    def pinned_by(self, axis: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return 1 + the number of the reason for which each index must stay, 0 for none."""
        return np.where(axis < 0, -axis, self._pins[self.roots(axis)])
