"""What is zeroed together: boxes of a weight, or n of m neighbours kept.

A weight is looked at as [groups, outputs, taps, inputs]: neighbours on the last axis are input
channels at the same tap, which is how hardware groups them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from onnxcomp.errors import RecipeError
from onnxcomp.graph import Array

Shape = tuple[int, ...]
WHOLE = 0
# The box of a pattern with a name: outputs, taps and inputs, of which 0 are all there are.
NAMED = {
    "unstructured": (1, 1, 1),
    "row": (1, WHOLE, WHOLE),
    "kernel": (1, WHOLE, 1),
    "vector": (1, 1, 4),
    "block": (4, 1, 4),
}


@dataclass(frozen=True)
class Pattern:
    """Boxes of `box` (outputs, taps, inputs) that are zeroed whole.

    Where `of` is not 0: of each `of` neighbouring inputs at most `keep` that are not zero.
    """

    name: str
    box: tuple[int, int, int] = (1, 1, 1)
    keep: int = 0
    of: int = 0

    @property
    def ratio(self) -> float | None:
        """The share that is zeroed, where the pattern says it."""
        return 1 - self.keep / self.of if self.of else None


def read_pattern(text: str) -> Pattern:
    """Return the pattern of a name, of `4x4` (outputs x inputs) or of `2:4` (kept of each).

    Raises `RecipeError` for what is none.
    """
    if text in NAMED:
        return Pattern(text, NAMED[text])
    box = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", text)
    if box is not None:
        return Pattern(text, (int(box[1]), 1, int(box[2])))
    kept = re.fullmatch(r"([1-9]\d{0,3}):([1-9]\d{0,3})", text)
    if kept is not None and int(kept[1]) < int(kept[2]):
        return Pattern(text, keep=int(kept[1]), of=int(kept[2]))
    raise RecipeError(
        f"prune-weights: there is no pattern {text!r}; choose from {', '.join(NAMED)}, a block "
        "such as 1x8 (outputs x inputs), or n:m such as 2:4 (n of m kept)"
    )


def pattern_problem(pattern: Pattern, shape: Shape) -> str | None:
    """Say why a weight [groups, outputs, taps, inputs] cannot have a pattern."""
    _, outputs, _, inputs = shape
    if pattern.of:
        return _uneven(inputs, pattern.of, "input")
    rows, _, columns = pattern.box
    return _uneven(outputs, rows, "output") or _uneven(inputs, columns, "input")


def _uneven(count: int, size: int, side: str) -> str | None:
    if not size or count % size == 0:
        return None
    return f"its {count} {side} channels are not a multiple of {size}"


def by_unit(pattern: Pattern, scores: Array) -> Array:
    """Return the sum of scores [groups, outputs, taps, inputs] over each box."""
    groups, outputs, taps, inputs = scores.shape
    r, t, c = _box(pattern, scores.shape)
    parts = scores.reshape(groups, outputs // r, r, taps // t, t, inputs // c, c)
    return np.asarray(parts.sum(axis=(2, 4, 6)))


def over_boxes(pattern: Pattern, units: Array, shape: Shape) -> Array:
    """Return what is said of each box for each of its elements: the way back of `by_unit`."""
    for axis, size in enumerate(_box(pattern, shape), start=1):
        units = np.repeat(units, size, axis=axis)
    return units


def lowest(pattern: Pattern, scores: Array, count: int) -> Array:
    """Return which elements to zero: the `count` boxes of least score, or those of each n:m group.

    Of equal ones the first are taken.
    """
    if pattern.of:
        return lowest_of(scores, pattern.of - pattern.keep, pattern.of)
    units = by_unit(pattern, scores)
    return over_boxes(pattern, lowest_of(units.reshape(1, -1), count, units.size).reshape(
        units.shape), scores.shape)  # fmt: skip


def lowest_of(scores: Array, count: int, size: int) -> Array:
    """Return which `count` of each `size` neighbours on the last axis have the least scores."""
    parts = scores.reshape(-1, size)
    order = np.argsort(parts, axis=1, kind="stable")
    found = np.zeros(parts.shape, dtype=bool)
    np.put_along_axis(found, order[:, :count], True, axis=1)
    return found.reshape(scores.shape)


def unit_count(pattern: Pattern, shape: Shape) -> int:
    """Return how many boxes a weight has."""
    r, t, c = _box(pattern, shape)
    return int(np.prod(shape)) // (r * t * c)


def zero_units(pattern: Pattern, cube: Array) -> int:
    """Return how many boxes are all zero."""
    return int((by_unit(pattern, (cube != 0).astype(np.int64)) == 0).sum())


def holds(pattern: Pattern, cube: Array) -> bool:
    """Say whether each group of a weight keeps to n:m."""
    kept = (cube != 0).reshape(-1, pattern.of).sum(axis=1)
    return bool((kept <= pattern.keep).all())


def _box(pattern: Pattern, shape: Shape) -> tuple[int, int, int]:
    _, _, taps, inputs = shape
    r, t, c = pattern.box
    return r, t or taps, c or inputs
