"""Latency of two models, measured in turns so that a drifting machine favours neither."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

from onnxcomp.graph import Array
from onnxcomp.report import Latency
from onnxcomp.runtime import Session

MIN_ROUNDS, MAX_ROUNDS = 5, 400
BUDGET_SECONDS = 2.0
# A model so many times as fast in every round is faster beyond doubt.
CLEAR = 1.3


def measure_in_turns(
    before: Session,
    after: Session,
    feeds: Sequence[Mapping[str, Array]],
    seconds: float = BUDGET_SECONDS,
    *,
    clear: float = CLEAR,
) -> Latency:
    """Return the median milliseconds of one pass over `feeds`, per feeds, of both, and their ratio.

    The two run in turns, A B B A, after one warm-up each, for about `seconds` in all, or half of
    that where every round says that the second is `clear` times as fast.
    """
    started = time.perf_counter()
    _time(before, feeds)
    _time(after, feeds)
    once = time.perf_counter() - started
    rounds = max(MIN_ROUNDS, min(MAX_ROUNDS, int(seconds / max(once, 1e-6))))
    first: list[float] = []
    second: list[float] = []
    for index in range(rounds):
        if 2 * index >= max(rounds, 2 * MIN_ROUNDS) and _is_clear(first, second, clear):
            break
        if index % 2:
            second.append(_time(after, feeds))
            first.append(_time(before, feeds))
        else:
            first.append(_time(before, feeds))
            second.append(_time(after, feeds))
    scale = 1000 / len(feeds)
    return Latency(
        statistics.median(first) * scale,
        statistics.median(second) * scale,
        statistics.median(a / b for a, b in zip(first, second, strict=True)),
    )


def _is_clear(first: Sequence[float], second: Sequence[float], clear: float) -> bool:
    return all(a >= clear * b for a, b in zip(first, second, strict=True))


def _time(session: Session, feeds: Sequence[Mapping[str, Array]]) -> float:
    started = time.perf_counter()
    for item in feeds:
        session.run(item)
    return time.perf_counter() - started
