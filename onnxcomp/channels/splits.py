"""Reshapes: which axis behind one follows which axis before it.

A Reshape keeps the elements in order, so its axes are digits of one mixed-radix number: [H * D]
becomes [H, D] and digit H or digit D can go on being cut, but not both. Which one is decided when
the whole graph has been seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxcomp.channels.ids import HEAD, Axes, Axis, Ids, Unruled
from onnxcomp.symbolic.dims import Dim
from onnxcomp.symbolic.facts import Shape

# Numbers that stand for open dims: what holds for two unlike sets of primes holds for all sizes.
PRIMES = (
    (10007, 10037, 10061, 10069, 10079, 10091, 10093, 10099),
    (20011, 20021, 20023, 20029, 20047, 20051, 20063, 20071),
)


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
class _Split:
    """A place where one of several pairs must be chosen."""

    node: ir.Node
    pairs: tuple[Pair, ...]
    source: Axes
    target: Axes


class Splits:
    """The Reshapes of a model whose axes are not yet decided on."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._open: list[_Split] = []

    def reshape(self, node: ir.Node, source: Axes, before: Shape, after: Shape) -> Axes:
        """Return the ids behind a Reshape; raise where the sizes do not tell."""
        pairs = common_digits(before, after)
        target: Axes = [None] * len(after)
        whole = {
            (pair.source, pair.target)
            for pair in pairs
            if before[pair.source] == after[pair.target] == pair.size
        }
        for index, place in whole:
            target[place] = source[index]
        rest = [place for place in range(len(after)) if place not in {b for _, b in whole}]
        made = self._ids.new_axes(tuple(after[place] for place in rest))
        for place, axis in zip(rest, made, strict=True):
            target[place] = axis
        for block in _blocks([p for p in pairs if (p.source, p.target) not in whole]):
            self._open.append(_Split(node, tuple(block), source, target))
        followed = {pair.source for pair in pairs if pair.size > 1}
        for index, axis in enumerate(source):
            if index not in followed:
                self._ids.pin(axis, node, "a Reshape puts it into an open dim")
        reached = {pair.target for pair in pairs if pair.size > 1}
        for place in rest:
            if place not in reached:
                self._ids.pin(target[place], node, "a Reshape makes it of an open dim")
        return target

    def decide(self) -> None:
        """Choose in each Reshape the axis to follow, and keep the others whole."""
        self._ids.resolve()
        for split in self._open:
            best = max(split.pairs, key=lambda pair: self._worth(split, pair))
            self._follow(split, best)
            self._ids.resolve()
        self._open.clear()

    def _worth(self, split: _Split, pair: Pair) -> tuple[bool, int, int]:
        """Heads before others, then what leaves most to choose from, then the outer axis."""
        source, target = split.source[pair.source], split.target[pair.target]
        if source is None or target is None or pair.size == 1:
            return False, 0, 0
        ids = self._ids
        joined = np.concatenate([source, target])
        label = np.concatenate([_by_digit(source, pair, 0), _by_digit(target, pair, 1)])
        stay = np.unique(label[ids.pinned_by(joined) > 0])
        free = np.setdiff1d(np.arange(pair.size), stay)
        if not len(free):
            return False, 0, 0
        classes = _count_joined(ids.roots(joined), label, free)
        head = bool((ids.notes(joined) & HEAD).any())
        return head and classes > 1, classes, pair.below[0]

    def _follow(self, split: _Split, pair: Pair) -> None:
        source, target = split.source[pair.source], split.target[pair.target]
        ids, reason = self._ids, "a Reshape cuts it along another axis"
        kept_whole = [split.source[other.source] for other in split.pairs if other.source != pair.source]
        kept_whole += [split.target[other.target] for other in split.pairs if other.target != pair.target]
        ids.pin(kept_whole, split.node, reason)
        if source is None or target is None:
            ids.pin([source, target], split.node, reason)
            return
        before, after = _table(source, pair, 0), _table(target, pair, 1)
        ids.tie_rows(before)
        ids.tie_rows(after)
        ids.tie(before[0], after[0])


def _by_digit(axis: NDArray[np.intp], pair: Pair, side: int) -> NDArray[np.intp]:
    return np.arange(len(axis)) // pair.below[side] % pair.size


def _table(axis: NDArray[np.intp], pair: Pair, side: int) -> NDArray[np.intp]:
    """Return ids as [indices of one digit, digits]."""
    order = np.argsort(_by_digit(axis, pair, side), kind="stable")
    return axis[order].reshape(pair.size, -1).T


def _count_joined(roots: NDArray[np.intp], digit: NDArray[np.intp], free: NDArray[np.intp]) -> int:
    """Return how many of the free digits would still be independent of each other."""
    mine = roots >= 0
    _, place = np.unique(roots[mine], return_inverse=True)
    digit = digit[mine]
    label = np.arange(digit.max(initial=-1) + 1)
    while True:
        least = np.full(place.max(initial=-1) + 1, len(label))
        np.minimum.at(least, place, label[digit])
        new = label.copy()
        np.minimum.at(new, digit, least[place])
        if np.array_equal(new, label):
            return len(np.unique(label[free]))
        label = new


def common_digits(before: Shape, after: Shape) -> list[Pair]:
    """Return the digits that axes before and behind a Reshape have in common.

    Raises `Unruled` where the sizes do not divide each other, or not for all sizes of open dims.
    """
    found = [_digits_of_sizes(before, after, primes) for primes in PRIMES]
    if found[0] != found[1]:
        raise Unruled("what a Reshape does depends on open dims")
    return [
        Pair(*key[:2], size, below)
        for key, (size, below) in found[0].items()
        if isinstance(before[key[0]], int) and isinstance(after[key[1]], int)
    ]


def _digits_of_sizes(
    before: Shape, after: Shape, primes: Sequence[int]
) -> dict[tuple[int, int], tuple[int, tuple[int, int]]]:
    names = sorted({name for dim in (*before, *after) if isinstance(dim, Dim)
                    for factors, _ in dim.terms for name in factors})  # fmt: skip
    if len(names) > len(primes):
        raise Unruled("too many open dims in a Reshape")
    sizes = dict(zip(names, primes, strict=False))
    numbers = [[_size(dim, sizes) for dim in shape] for shape in (before, after)]
    if any(0 in side for side in numbers):
        raise Unruled("a Reshape of no elements")
    spans = [_spans(side) for side in numbers]
    if spans[0][0][1] != spans[1][0][1]:
        raise Unruled("the sizes before and behind a Reshape are not known to agree")
    cuts = sorted({cut for side in spans for span in side for cut in span})
    if any(high % low for low, high in zip(cuts, cuts[1:], strict=False)):
        raise Unruled("a Reshape cuts channels at uneven places")
    found = {}
    for i, (low, high) in enumerate(spans[0]):
        for j, (start, end) in enumerate(spans[1]):
            first, last = max(low, start), min(high, end)
            static = isinstance(before[i], int) and isinstance(after[j], int)
            if last > first and static:
                found[i, j] = (last // first, (first // low, first // start))
    return found


def _size(dim: int | Dim, sizes: dict[str, int]) -> int:
    if not isinstance(dim, Dim):
        return dim
    total = 0
    for factors, number in dim.terms:
        for name in factors:
            number *= sizes[name]
        total += number
    return total


def _spans(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Return (elements of one step, elements of all steps) for each axis."""
    found, below = [], 1
    for size in reversed(sizes):
        found.append((below, below * size))
        below *= size
    return found[::-1] or [(1, 1)]


def _blocks(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Return pairs in groups that share axes."""
    blocks: list[list[Pair]] = []
    for pair in pairs:
        near = [b for b in blocks if any(p.source == pair.source or p.target == pair.target for p in b)]
        merged = [*(each for block in near for each in block), pair]
        blocks = [block for block in blocks if block not in near] + [merged]
    return blocks
