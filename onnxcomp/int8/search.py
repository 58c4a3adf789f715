"""Builds the candidates, measures them, and chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnxcomp.calibration.ranges import Range
from onnxcomp.int8.candidate import Candidate
from onnxcomp.int8.regions import losing_nodes
from onnxcomp.int8.schemes import PREPARE, SCHEMES, Scheme, steps_of
from onnxcomp.int8.sensitivity import Cost, sweep
from onnxcomp.judging import SLOWER, judge_answers
from onnxcomp.recipe import Step
from onnxcomp.registry import list_passes
from onnxcomp.report import StepReport
from onnxcomp.runtime import Session, weight_bytes
from onnxcomp.stages import stage
from onnxcomp.stepping import Context, Done, after_steps, find_ranges_for

# Each candidate is timed beside the original for about this long.
SECONDS = 1.2
FINAL_SECONDS = 2.0
# A candidate that computes in int8 has to gain this much; storing weights has not.
WORTH = 1.02
# Two speeds nearer than this are taken for equal, and the smaller file wins.
EQUAL = 0.03
# How often the number of values to give back is doubled, and how much more (dB) is aimed at.
ATTEMPTS = 4
NOTHING: Mapping[str, Range] = {}
MARGIN = 0.5


@dataclass(frozen=True)
class Choice:
    """What was chosen with the steps that make it, and every candidate that was looked at.

    `returned` are the nodes that went back to float, each with the reason.
    """

    done: Done
    steps: tuple[Step, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    returned: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Search:
    """What all candidates start from; `kept` are the preparing steps that held."""

    context: Context
    prepared: Done
    kept: tuple[Step, ...]


def choose(schemes: Sequence[str], context: Context, base: Done) -> Choice:
    """Return the steps that make the fastest model within the budget.

    Static candidates whose answers are not within it give their worst nodes back to float until
    they are, and those regions that cost more in int8 than in float. What is not faster than the
    original is not chosen; if nothing is, weights are stored in int8 if that holds, else nothing
    happens. Without anything to measure by, the first scheme that applies is chosen.
    """
    first = [Step(name) for name in PREPARE if name in list_passes()]  # TEMP
    prepared = after_steps(_asked_for(first, context), context, base)
    new = prepared.steps[len(base.steps) :]
    kept = tuple(Step(step.name) for step in new if step.status == "applied")
    prepared.ranges = find_ranges_for(prepared.model, context)
    search = _Search(context, prepared, kept)
    found: list[Candidate] = []
    for scheme in (SCHEMES[name] for name in schemes):
        candidate = _build(search, scheme, {})
        if candidate is None or any(_same(candidate, other) for other in found):
            continue
        found.append(candidate)
        if context.yardstick is None:
            break
    if context.yardstick is not None:
        found += [better for each in list(found) if (better := _without_losing(search, each))]
        found += _mended(search, found)
    return _choice(search, found, base)


# ---------------------------------------------------------------- building
def _build(
    search: _Search,
    scheme: Scheme,
    returned: Mapping[str, str],
    ranges: Mapping[str, Range] = NOTHING,
    *,
    mending: bool = False,
) -> Candidate | None:
    """Build and measure a candidate; None where the scheme finds nothing to do.

    One that is being mended is timed only once its answers hold.
    """
    context = search.context
    stage(f"trying {scheme.name}" + (f", {len(returned)} nodes in float" if returned else ""))
    steps = _asked_for(steps_of(scheme, returned, ranges), context)
    done = after_steps(steps, context, search.prepared)
    if not all(_sites(search, done).get(name) for name in scheme.makers):
        return None
    if context.yardstick is None:
        return Candidate(scheme, done, weight_bytes(done.model), None, None, returned, ranges)
    evidence = judge_answers(context.yardstick, done.model)
    latency = None
    worth_timing = not (evidence.broken or (mending and evidence.problems))
    if context.yardstick.budget.timed and worth_timing:
        session = Session(done.model, optimize=True, threads=context.yardstick.budget.threads)
        latency = context.yardstick.latency(session, SECONDS)
    size = weight_bytes(done.model)
    return Candidate(scheme, done, size, evidence, latency, returned, ranges)


def _asked_for(steps: Sequence[Step], context: Context) -> list[Step]:
    return [step for step in steps if step.name not in context.recipe.skip]


def _new_steps(search: _Search, done: Done) -> list[StepReport]:
    return done.steps[len(search.prepared.steps) :]


def _sites(search: _Search, done: Done) -> dict[str, int]:
    return {step.name: step.sites for step in _new_steps(search, done)}


def _same(first: Candidate, second: Candidate) -> bool:
    """Say whether two schemes did the same thing to this model."""
    names = ("quantize-static", "quantize-dynamic")
    counts = [
        {step.name: step.sites for step in each.done.steps if step.name in names and step.sites}
        for each in (first, second)
    ]
    return counts[0] == counts[1]


# ---------------------------------------------------------------- mending
def _without_losing(search: _Search, candidate: Candidate) -> Candidate | None:
    """Return a candidate without the regions that int8 slows down; None if that is no gain."""
    yardstick = search.context.yardstick
    if not candidate.scheme.ops or candidate.latency is None or yardstick is None:
        return None
    exact, model = search.prepared.exact, candidate.done.model
    losing = losing_nodes(exact, model, yardstick.timed, yardstick.budget.threads)
    if not losing:
        return None
    better = _build(search, candidate.scheme, losing, candidate.ranges)
    return better if better is not None and better.speedup > candidate.speedup else None


def _mended(search: _Search, found: Sequence[Candidate]) -> list[Candidate]:
    """Return static candidates that hold once their worst nodes are float, where that may pay."""
    mended: list[Candidate] = []
    failing = [each for each in found if not each.holds and each.scheme.ops]
    for candidate in sorted(failing, key=lambda each: -each.speedup):
        best = max((each.speedup for each in (*found, *mended) if each.holds), default=0.0)
        if candidate.latency is not None and candidate.speedup <= max(best, WORTH):
            continue
        better = _mend(search, candidate)
        if better is not None:
            mended.append(better)
    return mended


def _mend(search: _Search, candidate: Candidate) -> Candidate | None:
    """Bring a candidate's answers within the budget.

    First by better ranges for what costs most; then what still costs most goes back to float. How
    many is foretold by adding up what each costs alone, and doubled where that was too few.
    """
    inputs = search.context.inputs
    assert inputs.calibration is not None
    assert search.prepared.ranges is not None
    stage("measuring what each value costs")
    found = sweep(
        search.prepared.model, candidate.done.model, inputs.calibration, search.prepared.ranges
    )
    if found.ranges:
        better = _build(search, candidate.scheme, candidate.returned, found.ranges, mending=True)
        if better is None or better.holds:
            return better
        candidate = better
    assert candidate.evidence is not None
    floor = inputs.budget.min_sqnr if inputs.budget is not None else None
    sqnr = candidate.evidence.parity.sqnr_db
    count = 1 if floor is None else _foretold(found.costs, sqnr, floor)
    for _ in range(ATTEMPTS):
        better = _with_float(search, candidate, found.costs[:count])
        if better is None or better.holds or count >= len(found.costs):
            return better if better is not None and better.holds else None
        count = min(2 * count, len(found.costs))
    return None


def _foretold(costs: Sequence[Cost], sqnr_db: float, floor: float) -> int:
    """Return how many of the dearest values must go for the noise of the rest to be within it.

    Noise adds up, but for what all of it together measures more or less than its parts.
    """
    noise = [cost.noise for cost in costs]
    wanted = sum(noise) * 10 ** ((sqnr_db - floor - MARGIN) / 10)
    left = sum(noise)
    for count, each in enumerate(noise):
        if left <= wanted:
            return max(count, 1)
        left -= each
    return max(len(noise), 1)


def _with_float(search: _Search, candidate: Candidate, dearest: Sequence[Cost]) -> Candidate | None:
    reasons = {
        node: f"next to {cost.values[0]}, whose int8 form alone leaves {cost.sqnr_db:.1f} dB"
        for cost in reversed(dearest)
        for node in cost.nodes
    }
    returned = {**candidate.returned, **reasons}
    return _build(search, candidate.scheme, returned, candidate.ranges, mending=True)


# ---------------------------------------------------------------- choosing
def _choice(search: _Search, found: Sequence[Candidate], base: Done) -> Choice:
    """Choose, and time what was chosen once more, longer: what fails then is passed over."""
    rest = list(found)
    while (best := _best(search, rest)) is not None:
        again = _timed_again(search, best)
        if again.problem is None:
            break
        rest.remove(best)
        found = [again if each is best else each for each in found]
    if best is None:
        search.context.say(_why_none(found))
        return Choice(replace(base, ranges=search.prepared.ranges), candidates=tuple(found))
    new = _new_steps(search, best.done)
    applied = {step.name for step in new if step.status == "applied"}
    steps = [
        step for step in steps_of(best.scheme, best.returned, best.ranges) if step.name in applied
    ]
    marked = tuple(replace(again, chosen=True) if each is best else each for each in found)
    done = replace(
        best.done,
        steps=[_explained(step, best.returned) for step in best.done.steps],
        evidence=again.evidence,
        verdict=None,
    )
    return Choice(done, (*search.kept, *steps), marked, best.returned)


def _why_none(found: Sequence[Candidate]) -> str:
    """Say what became of the candidates."""
    if not found:
        return "int8 finds nothing to do; the lossless model ships"
    reasons = [f"{each.scheme.name}: {_why_not(each)}" for each in found]
    return "no int8 form is within the contract, the lossless model ships: " + "; ".join(reasons)


def _why_not(candidate: Candidate) -> str:
    problems = candidate.evidence.problems if candidate.evidence is not None else ()
    return candidate.problem or next(iter(problems), f"only {candidate.speedup:.2f}x the speed")


def _timed_again(search: _Search, best: Candidate) -> Candidate:
    yardstick = search.context.yardstick
    if yardstick is None or best.evidence is None or not yardstick.budget.timed:
        return best
    latency = yardstick.latency(
        Session(best.done.model, optimize=True, threads=yardstick.budget.threads), FINAL_SECONDS
    )
    least = 1.0 if best.scheme.computes else SLOWER
    evidence = replace(best.evidence, latency=latency)
    slower = f"{latency.speedup:.2f}x when it was timed again"
    problem = None if latency.speedup >= least else slower
    return replace(best, latency=latency, evidence=evidence, problem=problem)


def _explained(step: StepReport, returned: Mapping[str, str]) -> StepReport:
    """Put the reasons why the search excluded nodes in the place of "excluded"."""
    left = tuple(
        replace(item, reason=returned[item.node]) if item.node in returned else item
        for item in step.left
    )
    return replace(step, left=left)


def _best(search: _Search, found: Sequence[Candidate]) -> Candidate | None:
    """Return the fastest that holds; of those as fast, the smallest."""
    yardstick = search.context.yardstick
    if yardstick is None or not yardstick.budget.timed:
        return next((each for each in found if each.holds), None)
    least = {True: WORTH, False: SLOWER}
    good = [each for each in found if each.holds and each.speedup >= least[each.scheme.computes]]
    fastest = max((each.speedup for each in good if each.scheme.computes), default=0.0)
    near = [each for each in good if each.speedup >= (1 - EQUAL) * fastest]
    return min(near, key=lambda each: each.bytes, default=None)
