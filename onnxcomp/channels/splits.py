"""Reshapes: which axis behind one follows which axis before it.

A Reshape keeps the elements in order, so its axes are digits of one mixed-radix number: [H * D]
becomes [H, D] and digit H or digit D can go on being cut, but not both. Which one is decided when
the whole graph has been seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxcomp.channels.ids import HEAD, Axes, Ids, Pair, Split, UnruledError
from onnxcomp.symbolic.dims import Dim
from onnxcomp.symbolic.facts import Shape

# Numbers that stand for open dims: what holds for two unlike sets of primes holds for all sizes.
PRIMES = (
    (10007, 10037, 10061, 10069, 10079, 10091, 10093, 10099),
    (20011, 20021, 20023, 20029, 20047, 20051, 20063, 20071),
)


def reshape(node: ir.Node, ids: Ids, before: Shape, after: Shape) -> Axes:
    """Return the ids behind a Reshape; raise where the sizes do not tell."""
    source, pairs = ids.of(node.inputs[0]), common_digits(before, after)
    whole = {
        pair.target: pair.source
        for pair in pairs
        if before[pair.source] == after[pair.target] == pair.size
    }
    target = [
        source[whole[place]] if place in whole else axis
        for place, axis in enumerate(ids.new_axes(after))
    ]
    for block in _blocks([pair for pair in pairs if pair.target not in whole]):
        ids.splits.append(Split(node, tuple(block), source, target))
    followed, reached = {pair.source for pair in pairs}, {pair.target for pair in pairs}
    lost = [axis for place, axis in enumerate(source) if place not in followed]
    made = [axis for place, axis in enumerate(target) if place not in reached]
    ids.pin([*lost, *made], node, "a Reshape joins it with an open dim")
    return target


def decide(ids: Ids) -> None:
    """Choose in each Reshape the axis to follow, and keep the others whole."""
    ids.resolve()
    for split in ids.splits:
        _follow(ids, split, max(split.pairs, key=lambda pair: _worth(ids, split, pair)))
        ids.resolve()
    ids.splits.clear()


def _worth(ids: Ids, split: Split, pair: Pair) -> tuple[bool, int, int]:
    """Heads before others, then what leaves most to choose from, then the outer axis."""
    source, target = split.source[pair.source], split.target[pair.target]
    if source is None or target is None:
        return False, 0, 0
    joined = np.concatenate([source, target])
    digit = np.concatenate([_by_digit(source, pair, 0), _by_digit(target, pair, 1)])
    stay = np.unique(digit[ids.pinned_by(joined) > 0])
    free = np.setdiff1d(np.arange(pair.size), stay)
    if not len(free):
        return False, 0, 0
    count = _count_joined(ids.roots(joined), digit, free)
    head = bool((ids.notes(joined) & HEAD).any())
    return head and count > 1, count, pair.below[0]


def _follow(ids: Ids, split: Split, pair: Pair) -> None:
    others = [each for each in split.pairs if each is not pair]
    whole = [split.source[each.source] for each in others if each.source != pair.source]
    whole += [split.target[each.target] for each in others if each.target != pair.target]
    ids.pin(whole, split.node, "a Reshape cuts it along another axis")
    source, target = split.source[pair.source], split.target[pair.target]
    assert source is not None
    assert target is not None
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

    Raises `UnruledError` where the sizes do not divide each other, or what they tell depends on
    open dims.
    """
    found = [_digits_of_sizes(before, after, primes) for primes in PRIMES]
    if found[0] != found[1]:
        raise UnruledError("what a Reshape does depends on open dims")
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
        raise UnruledError("too many open dims in a Reshape")
    sizes = dict(zip(names, primes, strict=False))
    numbers = [[_size(dim, sizes) for dim in shape] for shape in (before, after)]
    if any(0 in side for side in numbers):
        raise UnruledError("a Reshape of no elements")
    spans = [_spans(side) for side in numbers]
    if spans[0][0][1] != spans[1][0][1]:
        raise UnruledError("the sizes before and behind a Reshape are not known to agree")
    cuts = sorted({cut for side in spans for span in side for cut in span})
    if any(high % low for low, high in pairwise(cuts)):
        raise UnruledError("a Reshape cuts channels at uneven places")
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
        near = [
            b for b in blocks if any(p.source == pair.source or p.target == pair.target for p in b)
        ]
        merged = [*(each for block in near for each in block), pair]
        blocks = [block for block in blocks if block not in near] + [merged]
    return blocks
