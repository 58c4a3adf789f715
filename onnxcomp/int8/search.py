"""Builds the candidates, measures them, and chooses."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnxcomp.int8.building import (
    Bench,
    build,
    latency_of,
    new_steps,
    prepare,
    same,
    steps_for,
    with_answers,
    with_correction,
    with_latency,
    without_rounding,
)
from onnxcomp.int8.candidate import Candidate
from onnxcomp.int8.mending import mend, without_losing
from onnxcomp.int8.schemes import SCHEMES
from onnxcomp.judging import SLOWER, judge
from onnxcomp.report import StepReport
from onnxcomp.stages import stage
from onnxcomp.stepping import Context, Done

# What is chosen is timed once more beside the lossless model, for about this long, unless it was
# so many times faster that a bad moment cannot have made it so.
FINAL_SECONDS = 1.5
SURELY = 1.3
# A candidate that computes in int8 has to gain this much; storing weights has not.
WORTH = 1.02
# Seconds after which no further candidate is mended.
PATIENCE = 7.0
# Below this share of the best speed so far, a candidate is not worth mending.
HOPEFUL = 0.9
# Above this share of it, the more accurate of two is mended first: timings of a moment differ.
ALIKE = 0.85
# How often regions that are slower in int8 are looked for: giving one back moves the borders.
REGION_ROUNDS = 2
# Two speeds nearer than this are taken for equal, and the smaller file wins; of two as small, by
# this share, one that computes in int8, and of these the one that was built first.
EQUAL = 0.05
AS_SMALL = 0.05


@dataclass(frozen=True)
class Choice:
    """What was chosen, and every candidate that was looked at.

    `returned` are the nodes that went back to float, each with the reason.
    """

    done: Done
    candidates: tuple[Candidate, ...] = ()
    returned: Mapping[str, str] = field(default_factory=dict)


def choose(schemes: Sequence[str], context: Context, base: Done) -> Choice:
    """Return the steps that make the fastest model within the budget.

    Static candidates give back to float those regions that cost more in int8, and, where their
    answers are not within the budget, the worst nodes until they are. What is not faster than the
    lossless model is not chosen; if nothing is, weights are stored in int8 if that holds, else
    nothing happens. Where nothing that computes in int8 holds, weights are tried as they were
    before they were rounded to their inputs. Without anything to measure by, the first scheme that
    applies is chosen.
    """
    bench = prepare(context, base)
    found = _answering(bench, schemes)
    if bench.equalized is not None and _none_computes(found):
        plain = without_rounding(bench)
        others = _answering(plain, [each.scheme.name for each in found])
        if _nearness(others) > _nearness(found):
            bench, found = plain, others
    found = [with_latency(bench, each) for each in found]
    return _choice(bench, [*found, *_variants(bench, found)])


def _none_computes(found: Sequence[Candidate]) -> bool:
    """Say whether answers broke the budget, and none of what computes in int8 keeps it."""
    holding = [each for each in found if each.holds]
    return len(holding) < len(found) and not any(each.scheme.computes for each in holding)


def _nearness(found: Sequence[Candidate]) -> tuple[int, float]:
    """Return how many candidates keep the budget, and the SQNR of the best that computes."""
    ratios = [e.evidence.parity.sqnr_db for e in found if e.scheme.computes and e.evidence]
    return sum(each.holds for each in found), max(ratios, default=0.0)


def _answering(bench: Bench, schemes: Sequence[str]) -> list[Candidate]:
    """Build what the schemes make of a model, and measure its answers."""
    found: list[Candidate] = []
    for name in schemes:
        candidate = build(bench, SCHEMES[name], corrected=bench.yardstick is None)
        if candidate is None or any(same(candidate, other) for other in found):
            continue
        found.append(with_answers(bench, candidate))
        if bench.yardstick is None or (not bench.timed and found[-1].holds):
            break
    return found


def _variants(bench: Bench, found: Sequence[Candidate]) -> Iterator[Candidate]:
    """Yield what the static candidates become when their worst nodes go back to float.

    The fastest comes first; one that is far slower than what holds already is not looked at.
    """
    if bench.yardstick is None or (not bench.timed and any(each.holds for each in found)):
        return
    started = time.perf_counter()
    best = max((each.speedup for each in found if each.holds), default=0.0)
    for candidate in _to_mend(found):
        if bench.timed and candidate.speedup < HOPEFUL * best:
            continue
        if time.perf_counter() - started > PATIENCE:
            return
        chain = [candidate, *_faster(bench, candidate)]
        yield from chain[1:]
        if not chain[-1].holds and (not bench.timed or chain[-1].speedup > max(best, WORTH)):
            mended = mend(bench, chain[-1])
            if mended is not None:
                chain += [mended, *_faster(bench, mended)]
                yield from chain[chain.index(mended) :]
        best = max([best, *(each.speedup for each in chain if each.holds)])


def _to_mend(found: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates with static ops, the fastest first; of those as fast, the least static.

    What is quantized as each input comes costs the answers less than what has one range for all.
    """
    static = [each for each in found if each.scheme.ops]
    near = ALIKE * max((each.speedup for each in static), default=0.0)

    def key(each: Candidate) -> tuple[bool, int, float]:
        behind = each.speedup < near or not near  # where nothing is timed, they come as they are
        return behind, 0 if behind else len(each.scheme.ops), -each.speedup

    return sorted(static, key=key)


def _faster(bench: Bench, candidate: Candidate) -> Iterator[Candidate]:
    """Yield a candidate with slow regions in float, and that with what is slow then, and so on."""
    for _ in range(REGION_ROUNDS):
        faster = without_losing(bench, candidate)
        if faster is None:
            return
        yield faster
        candidate = faster


# ---------------------------------------------------------------- choosing
def _choice(bench: Bench, found: Sequence[Candidate]) -> Choice:
    """Choose, and measure what was chosen once more, longer: what fails then is passed over."""
    rest = list(found)
    while (best := _best(bench, rest)) is not None:
        again = _measured_again(bench, _corrected(bench, best))
        if again.problem is None:
            break
        rest.remove(best)
        found = [again if each is best else each for each in found]
    if best is None:
        bench.context.say(_why_none(found))
        done = replace(bench.base, ranges=bench.prepared.ranges)
        return Choice(done, candidates=tuple(found))
    new = new_steps(bench, again.done)
    applied = {step.name for step in new if step.status == "applied"}
    steps = [step for step in steps_for(bench, again) if step.name in applied]
    marked = tuple(replace(again, chosen=True) if each is best else each for each in found)
    done = replace(
        again.done,
        steps=[_explained(step, again.returned) for step in again.done.steps],
        ran=[*bench.base.ran, *bench.kept, *steps],
        evidence=again.evidence,
        verdict=None,
    )
    return Choice(done, marked, again.returned)


def _corrected(bench: Bench, best: Candidate) -> Candidate:
    """Return a candidate with its biases corrected, where its answers come closer by that."""
    better = with_correction(bench, best) if bench.yardstick is not None else None
    if better is None or not better.holds or better.evidence is None or best.evidence is None:
        return best
    nearer = better.evidence.parity.sqnr_db > best.evidence.parity.sqnr_db
    return better if nearer else best


def _best(bench: Bench, found: Sequence[Candidate]) -> Candidate | None:
    """Return the fastest that holds; of those as fast, a small one that computes in int8."""
    if not bench.timed:
        return next((each for each in found if each.holds), None)
    least = {True: WORTH, False: SLOWER}
    good = [each for each in found if each.holds and each.speedup >= least[each.scheme.computes]]
    fastest = max((each.speedup for each in good if each.scheme.computes), default=0.0)
    near = [each for each in good if each.speedup >= (1 - EQUAL) * fastest]
    least_bytes = min((each.bytes for each in near), default=0)
    small = [each for each in near if each.bytes <= (1 + AS_SMALL) * least_bytes]
    return min(small, key=lambda each: not each.scheme.computes, default=None)


def _measured_again(bench: Bench, best: Candidate) -> Candidate:
    """Measure all of a candidate: against the original, and its speed against the lossless one."""
    if bench.yardstick is None:
        return best
    stage("judging the result")
    evidence = judge(bench.yardstick, best.done.model, best.evidence)
    again = replace(best, evidence=evidence)
    if not bench.timed or evidence.problems or again.same_kernels or best.speedup >= SURELY:
        return replace(again, problem=next(iter(evidence.problems), None))
    latency = latency_of(bench, best, FINAL_SECONDS, clear=WORTH)
    least = 1.0 if best.scheme.computes else SLOWER
    slower = f"{latency.speedup:.2f}x the lossless model's speed when it was timed again"
    problem = None if latency.speedup >= least else slower
    return replace(again, latency=latency, problem=problem)


def _explained(step: StepReport, returned: Mapping[str, str]) -> StepReport:
    """Put the reasons why the search excluded nodes in the place of "excluded"."""
    left = tuple(
        replace(item, reason=returned[item.node]) if item.node in returned else item
        for item in step.left
    )
    return replace(step, left=left)


def _why_none(found: Sequence[Candidate]) -> str:
    """Say what became of the candidates."""
    if not found:
        return "int8 finds nothing to do; the lossless model ships"
    reasons = [f"{each.scheme.name}: {_why_not(each)}" for each in found]
    return "no int8 form is within the contract, the lossless model ships: " + "; ".join(reasons)


def _why_not(candidate: Candidate) -> str:
    return next(iter(candidate.problems), f"only {candidate.speedup:.2f}x the speed")
