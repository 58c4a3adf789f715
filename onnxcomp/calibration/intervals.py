"""Sets of whole numbers as sorted intervals [start, stop)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

Interval = tuple[int, int]


def covers(intervals: Sequence[Interval], number: int) -> bool:
    """Say whether a number is in one of the intervals."""
    place = bisect_right(intervals, number, key=lambda interval: interval[0]) - 1
    return place >= 0 and number < intervals[place][1]


def with_numbers(intervals: Sequence[Interval], numbers: Iterable[int]) -> list[Interval]:
    """Return the intervals and these numbers, joined where they touch."""
    joined: list[Interval] = []
    for start, stop in sorted([*intervals, *((number, number + 1) for number in numbers)]):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined


def count_of(intervals: Iterable[Interval]) -> int:
    """Return how many numbers the intervals hold."""
    return sum(stop - start for start, stop in intervals)
