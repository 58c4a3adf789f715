"""Mending a candidate: what is too slow or costs the answers too much goes back to float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxcomp.int8.building import (
    Bench,
    build,
    new_steps,
    with_answers,
    with_correction,
    with_latency,
)
from onnxcomp.int8.candidate import Candidate
from onnxcomp.int8.regions import losing_nodes
from onnxcomp.int8.schemes import CORRECT
from onnxcomp.int8.sensitivity import Cost, sweep
from onnxcomp.judging import shortfall_db
from onnxcomp.kernel_times import kernel_times
from onnxcomp.stages import stage

# How often the number of values to give back is doubled, and how much more (dB) is aimed at.
ATTEMPTS = 6
MARGIN = 0.5
# Biases are corrected in every attempt only where that gains so much (dB) in so little time.
CORRECTED_GAIN, CORRECTED_SECONDS = 1.0, 1.5
# It is not tried where a run of the model takes longer than this and more is missing than it gives.
SLOW_MS, HOPELESS_DB = 25.0, 4.0


def without_losing(bench: Bench, candidate: Candidate) -> Candidate | None:
    """Return a candidate without the regions that int8 slows down; None if that is no gain."""
    yardstick = bench.yardstick
    if not candidate.scheme.ops or candidate.latency is None or yardstick is None:
        return None
    model, exact = candidate.done.model, bench.prepared.unquantized
    times = kernel_times(model, yardstick.timed, yardstick.budget.threads)
    losing = losing_nodes(exact, model, bench.float_times, times)
    if not losing.keys() - candidate.returned.keys():
        return None
    returned = {**candidate.returned, **losing}
    better = _built(bench, replace(candidate, returned=returned))
    if better is None:
        return None
    better = with_latency(bench, better)
    return better if better.speedup > candidate.speedup else None


def mend(bench: Bench, candidate: Candidate) -> Candidate | None:
    """Bring a static candidate's answers within the budget, or return None.

    First by biases without mean errors, then by better ranges for what costs most; then what still
    costs most goes back to float.
    """
    better = None if _is_hopeless(bench, candidate) else with_correction(bench, candidate)
    if better is not None and better.holds:
        return better
    if better is not None and _is_worth_repeating(bench, better, candidate):
        candidate = better
    inputs = bench.context.inputs
    assert inputs.calibration is not None
    assert bench.prepared.ranges is not None
    stage("measuring what each value costs")
    exact, model = bench.raised.model, candidate.done.model
    found = sweep(exact, model, inputs.calibration, bench.prepared.ranges)
    costs = found.costs
    if found.ranges:
        better = _built(bench, replace(candidate, ranges=found.ranges))
        if better is None or better.holds:
            return better and with_latency(bench, better)
        if _distance(bench, better) < _distance(bench, candidate):
            candidate, costs = better, found.refined
    return _without_dearest(bench, candidate, costs)


def _without_dearest(bench: Bench, candidate: Candidate, costs: Sequence[Cost]) -> Candidate | None:
    """Return a candidate with the dearest values in float that keeps the budget, or None.

    How many is foretold by adding up what each costs alone, once more where that was too few, then
    doubled, and halved towards that where nothing was left in int8.
    """
    few, many = 0, len(costs) + 1
    count = _foretold(bench, candidate, costs, otherwise=1)
    for attempt in range(ATTEMPTS):
        better = _with_float(bench, candidate, costs[:count])
        if better is not None and better.holds:
            return with_latency(bench, better)
        few, many = (few, count) if better is None else (count, many)
        if many - few <= 1:
            return None
        more = few
        if attempt == 0 and better is not None:
            more = _foretold(bench, better, costs[count:], otherwise=few)
        count = min(few + more, (few + many) // 2) if few else many // 2
    return None


def _is_hopeless(bench: Bench, candidate: Candidate) -> bool:
    """Say whether correcting biases takes long, and cannot be enough; what ships is corrected."""
    latency, missing = candidate.latency, _missing(bench, candidate)
    return latency is not None and latency.before_ms > SLOW_MS and missing > HOPELESS_DB


def _missing(bench: Bench, candidate: Candidate) -> float:
    """Return by how many dB the noise has to fall, without a look at the user's metric."""
    assert candidate.evidence is not None
    budget = bench.context.inputs.budget
    return 0.0 if budget is None else shortfall_db(candidate.evidence.parity, budget)


def _distance(bench: Bench, candidate: Candidate) -> tuple[float, float]:
    """Return how far a candidate is from its budget, and its noise in dB."""
    assert candidate.evidence is not None
    return _missing(bench, candidate), -candidate.evidence.parity.sqnr_db


def _is_worth_repeating(bench: Bench, better: Candidate, candidate: Candidate) -> bool:
    """Say whether biases should be corrected in every attempt; what ships has them corrected."""
    seconds = sum(step.seconds for step in new_steps(bench, better.done) if step.name == CORRECT)
    assert better.evidence is not None
    assert candidate.evidence is not None
    gain = better.evidence.parity.sqnr_db - candidate.evidence.parity.sqnr_db
    return gain >= CORRECTED_GAIN and seconds <= CORRECTED_SECONDS


def _built(bench: Bench, plan: Candidate) -> Candidate | None:
    """Build what a candidate describes, and measure its answers."""
    found = build(bench, plan.scheme, plan.returned, plan.ranges, corrected=plan.corrected)
    return None if found is None else with_answers(bench, found)


def _foretold(bench: Bench, candidate: Candidate, costs: Sequence[Cost], otherwise: int) -> int:
    """Return how many of the dearest values must go for the noise of the rest to be within it.

    Noise adds up, but for what all of it together measures more or less than its parts. Where the
    user's metric is not met, which says nothing of how much, the answer is `otherwise`.
    """
    missing = _missing(bench, candidate)
    if missing == 0.0:
        return otherwise
    noise = [cost.noise for cost in costs]
    left = sum(noise)
    wanted = left / 10 ** ((missing + MARGIN) / 10)
    for count, each in enumerate(noise):
        if left <= wanted:
            return max(count, 1)
        left -= each
    return max(len(noise), 1)


def _with_float(bench: Bench, candidate: Candidate, dearest: Sequence[Cost]) -> Candidate | None:
    reasons = {
        node: f"next to {cost.values[0]}, whose int8 form alone leaves {cost.sqnr_db:.1f} dB"
        for cost in reversed(dearest)
        for node in cost.nodes
    }
    return _built(bench, replace(candidate, returned={**candidate.returned, **reasons}))
