"""Whether a lossy result is within its budget: the user's metric or SQNR, and never slower."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxcomp.calibration.user_code import load_object
from onnxcomp.errors import ModelError, SamplesError, UsageError
from onnxcomp.latency import measure_in_turns
from onnxcomp.parity import Parity
from onnxcomp.report import Latency
from onnxcomp.runtime import Session, first_line
from onnxcomp.verify import Metric, Predict, compare_sessions, predictor

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxcomp.calibration.samples import Samples

# Without a metric, a lossy model is accepted from this signal-to-noise ratio on (worst output).
DEFAULT_MIN_SQNR = 15.0
# With labels in the data, top-1 may fall by one point unless the user says otherwise.
DEFAULT_MAX_DROP = 0.01
# A result counts as slower below this ratio: two runs of one model differ by a few per cent.
SLOWER = 0.95
# Latency is taken on the first few samples, and parity on at most this many held-out ones.
TIMED_SAMPLES = 4

Score = Callable[[Predict], float]


@dataclass(frozen=True)
class Budget:
    """What a lossy recipe may cost, measured on the held-out samples.

    `score` is the user's metric (higher is better) and `max_drop` its accepted loss; `min_sqnr`
    (dB, worst output) counts where there is no metric. `timed` asks for a latency no worse than
    the original's.
    """

    held_out: Samples
    score: Score | None
    score_name: str
    max_drop: float | None
    min_sqnr: float | None
    timed: bool
    threads: int


@dataclass(frozen=True)
class Evidence:
    """What was measured of one candidate, and how it breaks the budget (empty: it does not)."""

    parity: Parity
    metric: Metric | None
    latency: Latency | None
    problems: tuple[str, ...]


def top1_of(samples: Samples) -> Score:
    """Return the metric that labelled samples bring: the share of equal arg-max of output 0."""

    def score(predict: Predict) -> float:
        assert samples.labels is not None
        hits = [
            np.asarray(predict(feeds)[0]).argmax(-1).reshape(-1) == np.reshape(label, -1)
            for feeds, label in zip(samples, samples.labels, strict=False)
        ]
        return float(np.mean(np.concatenate(hits)))

    return score


def user_score(spec: str) -> Score:
    """Return the metric behind `FILE.py:FUNC`; raise `UsageError` when it is none."""
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise UsageError(f"--eval {spec}: give FILE.py:FUNC, where FUNC(predict) returns a number")
    try:
        function, _ = load_object(place, name, f"--eval {spec}")
    except SamplesError as error:
        raise UsageError(str(error)) from error
    if not callable(function):
        raise UsageError(f"--eval {spec}: {name} is not a function")
    return function


def judge(before: ir.Model, after: ir.Model, budget: Budget) -> Evidence:
    """Measure a candidate against the model it came from.

    It must load at every optimization level and run on every held-out sample; what ONNX Runtime
    refuses of it is a problem, not an error.
    """
    reference = Session(before, threads=budget.threads)
    first = list(itertools.islice(budget.held_out, TIMED_SAMPLES))
    try:
        Session(after, threads=budget.threads).run(first[0])
        candidate = Session(after, optimize=True, threads=budget.threads)
        parity = compare_sessions(reference, candidate, budget.held_out)
        metric = _measure(reference, candidate, budget)
    except ModelError as error:
        return Evidence(Parity({}, 0), None, None, (str(error),))
    problems = _budget_problems(parity, metric, budget)
    latency = None
    if budget.timed:
        fast = Session(before, optimize=True, threads=budget.threads)
        latency = measure_in_turns(fast, candidate, first)
        if latency.speedup < SLOWER:  # once more: a verdict must not rest on one bad moment
            latency = measure_in_turns(fast, candidate, first)
        if latency.speedup < SLOWER:
            problems.append(
                f"it is slower: {latency.before_ms:.3g} ms became {latency.after_ms:.3g} ms"
            )
    return Evidence(parity, metric, latency, tuple(problems))


def _measure(reference: Session, candidate: Session, budget: Budget) -> Metric | None:
    if budget.score is None:
        return None
    figures = []
    for session in (reference, candidate):
        try:
            figures.append(float(budget.score(predictor(session))))
        except ModelError:
            raise
        except Exception as error:  # the user's function may raise anything
            raise UsageError(
                f"the metric raised {type(error).__name__}: {first_line(error)}"
            ) from error
    return Metric(budget.score_name, figures[0], figures[1], budget.max_drop)


def _budget_problems(parity: Parity, metric: Metric | None, budget: Budget) -> list[str]:
    problems = [f"{name}: {out.broken}" for name, out in parity.outputs.items() if out.broken]
    if metric is not None and not metric.holds:
        problems.append(
            f"the metric falls from {metric.before:.4f} to {metric.after:.4f}, by more than "
            f"{metric.max_drop}"
        )
    if budget.min_sqnr is not None and parity.sqnr_db < budget.min_sqnr:
        problems.append(f"SQNR {parity.sqnr_db:.1f} dB is below {budget.min_sqnr:g} dB")
    return problems
