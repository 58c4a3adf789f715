"""Whether a candidate is within its budget: its structure, answers, metric and time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnxcomp.acceptance import Budget
from onnxcomp.errors import ModelError
from onnxcomp.parity import Parity
from onnxcomp.report import Latency
from onnxcomp.runtime import LEVELS, as_source
from onnxcomp.verify import Metric
from onnxcomp.yardstick import Yardstick

# A result counts as slower below this ratio: two runs of one model differ by a few per cent.
SLOWER = 0.95
# How long original and result are timed in turns.
SECONDS = 2.0
# How often what looks slower is timed again.
RETRIES = 2


@dataclass(frozen=True)
class Evidence:
    """What was measured of one candidate, and how it breaks the budget (empty: it does not)."""

    parity: Parity
    metric: Metric | None
    latency: Latency | None
    problems: tuple[str, ...]

    @property
    def broken(self) -> bool:
        """Whether it did not even run."""
        return not self.parity.outputs


def judge(yardstick: Yardstick, after: ir.Model, answers: Evidence | None = None) -> Evidence:
    """Measure a result against the model it came from.

    It must load at every optimization level and run on every held-out sample; what ONNX Runtime
    refuses of it is a problem, not an error. `answers` are what was measured of them already.
    """
    found = judge_answers(yardstick, after) if answers is None else answers
    found = found if found.problems else _at_every_level(yardstick, after, found)
    if found.problems or not yardstick.budget.timed:
        return found
    candidate = yardstick.session(after)
    latency = yardstick.latency(candidate, SECONDS)
    for _ in range(RETRIES):  # a verdict must not rest on one bad moment
        if latency.speedup < SLOWER:
            latency = yardstick.latency(candidate, SECONDS)
    problems = []
    if latency.speedup < SLOWER:
        problems.append(
            f"it is slower: {latency.before_ms:.3g} ms became {latency.after_ms:.3g} ms"
        )
    return replace(found, latency=latency, problems=tuple(problems))


def _at_every_level(yardstick: Yardstick, after: ir.Model, found: Evidence) -> Evidence:
    """Load and run a result at every optimization level, and note where that fails."""
    try:
        with as_source(after) as source:
            for level in LEVELS:
                yardstick.session(source, level).run(yardstick.timed[0])
    except ModelError as error:
        return replace(found, problems=(str(error),))
    return found


def judge_answers(yardstick: Yardstick, after: ir.Model) -> Evidence:
    """Measure all of a result but its latency."""
    budget = yardstick.budget
    try:
        candidate = yardstick.session(after)
        parity = yardstick.parity(candidate)
        metric = yardstick.metric(candidate)
    except ModelError as error:
        return Evidence(Parity({}, 0), None, None, (str(error),))
    return Evidence(parity, metric, None, tuple(_budget_problems(parity, metric, budget)))


def _budget_problems(parity: Parity, metric: Metric | None, budget: Budget) -> list[str]:
    problems = [f"{name}: {out.broken}" for name, out in parity.outputs.items() if out.broken]
    if metric is not None and not metric.holds:
        problems.append(
            f"the metric falls from {metric.before:.4f} to {metric.after:.4f}, by more than "
            f"{metric.max_drop}"
        )
    if budget.min_sqnr is not None and parity.sqnr_db < budget.min_sqnr:
        problems.append(f"SQNR {parity.sqnr_db:.1f} dB is below {budget.min_sqnr:g} dB")
    drop, most = parity.expected_drop, budget.max_expected_drop
    if most is not None and drop is not None and drop > most:
        problems.append(
            f"its own probabilities foretell that top-1 falls by {drop:.2%}, more than {most:.2%}"
        )
    return problems


def shortfall_db(parity: Parity, budget: Budget) -> float:
    """Return by how many dB the noise has to fall for the label-free budget to hold; 0 if it does.

    A foretold drop is proportional to the noise: to first order both how often decisions flip and
    what each flip costs grow with its deviation.
    """
    found = [0.0]
    if budget.min_sqnr is not None:
        found.append(budget.min_sqnr - parity.sqnr_db)
    if budget.max_expected_drop and parity.expected_drop:
        found.append(10 * math.log10(parity.expected_drop / budget.max_expected_drop))
    return max(found)
