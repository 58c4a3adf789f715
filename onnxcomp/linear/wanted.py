"""What layers of a student should make: outputs of the teacher, at a few positions of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxcomp.graph import Array
from onnxcomp.linear.gram import SEED
from onnxcomp.linear.layers import Layer
from onnxcomp.linear.pairs import Pair
from onnxcomp.linear.pieces import Pieces

# The shape of an output beside its channels, and how many of these there are.
Parted = tuple[tuple[int, ...], int]


@dataclass(frozen=True, eq=False)
class Wanted:
    """The teacher's outputs by sample, from which the student's `operands` are taken away."""

    pair: Pair
    outputs: Sequence[Array]
    operands: Sequence[Array] | None = None

    def __len__(self) -> int:
        return len(self.outputs)

    def shape(self, index: int) -> Parted:
        """Return the shape that the student's output should have."""
        positions, channels = parted(self.outputs[index], self.pair.layer.axis)
        kept = self.pair.kept
        if kept is None or not kept.size:
            return positions, channels
        return positions, len(kept) if kept.max() < channels else 0

    def rows(self, index: int, count: int) -> Array:
        """Return what is wanted at random positions, [groups, positions, rows]."""
        layer, kept = self.pair.layer, self.pair.kept
        picked = layer.channels_at(self.outputs[index], count, generator(index))
        picked = picked if kept is None else picked[:, kept]
        if self.operands is not None:
            picked = picked - layer.channels_at(self.operands[index], count, generator(index))
        return layer.by_group(picked)


def generator(index: int) -> np.random.Generator:
    """Return what draws the positions of a sample, the same ones each time."""
    return np.random.default_rng((SEED, index))


def find_wanted(pair: Pair, operands: Sequence[Array], exact: Pieces) -> Wanted:
    """Return what a layer should make, for each sample that the teacher still has."""
    plain = Wanted(pair, exact.take(pair.wanted.name or ""))
    if pair.total is None:
        return plain
    totals = Wanted(pair, exact.take(pair.total.name or ""), operands)
    # A sum that is larger than the output, or an operand that is smaller, has no such target.
    shared = range(min(len(plain), len(totals), len(operands)))
    axis = pair.layer.axis
    fits = all(plain.shape(i) == totals.shape(i) == parted(operands[i], axis) for i in shared)
    return totals if fits else plain


def made_by(layer: Layer, positions: tuple[int, ...]) -> Parted:
    """Return the shape of a layer's output."""
    return positions, layer.groups * layer.rows


def parted(data: Array, axis: int) -> Parted:
    """Return a shape beside an axis, and the size of that; 0 where there is no such axis."""
    if not -data.ndim <= axis < data.ndim:
        return data.shape, 0
    axis %= data.ndim
    return (*data.shape[:axis], *data.shape[axis + 1 :]), data.shape[axis]
