"""Work done ahead by threads comes back in order, two items at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from onnxcomp.ahead import AT_ONCE, in_order


def test_results_are_in_order() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number == 0 else 0)
        return number * number

    assert list(in_order(slow_first, range(7))) == [n * n for n in range(7)]


def test_no_more_than_two_are_held() -> None:
    lock, now, most = threading.Lock(), 0, 0

    def enter(number: int) -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.002)
        with lock:
            now -= 1
        return number

    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    for done, _ in enumerate(in_order(enter, items())):
        assert len(taken) <= done + AT_ONCE
    assert most == AT_ONCE


def test_an_error_comes_through() -> None:
    def fails(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    found = in_order(fails, range(5))
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(found)
