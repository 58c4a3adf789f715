"""Building a candidate from a scheme, and measuring it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import onnx_ir as ir

from onnxcomp.calibration.ranges import Range
from onnxcomp.graph import all_nodes
from onnxcomp.int8.candidate import Candidate
from onnxcomp.int8.schemes import CORRECT, DYNAMIC_OPS, PREPARE, ROUND, Scheme, steps_of
from onnxcomp.int8_coverage import optimized_graph
from onnxcomp.judging import judge_answers
from onnxcomp.kernel_times import kernel_times
from onnxcomp.latency import CLEAR
from onnxcomp.opset import raise_opset
from onnxcomp.passes.quantize.quantize_static import PER_CHANNEL_OPSET
from onnxcomp.recipe import Step
from onnxcomp.report import Latency, StepReport
from onnxcomp.runtime import Session, weight_bytes
from onnxcomp.stages import stage
from onnxcomp.stepping import Context, Done, after_steps, find_ranges_for
from onnxcomp.yardstick import Yardstick

# Each candidate is timed beside the lossless model for about this long.
SECONDS = 0.7
# ... and once more where it has static ops and seems no faster than this.
PROMISING = 1.05
# A pass that does nothing in so many seconds is not tried again.
LONG = 1.5
# What decides whether two schemes came to the same thing.
COMPUTING = ("quantize-static", "quantize-dynamic")


@dataclass(frozen=True)
class Bench:
    """What all candidates start from; `kept` are the preparing steps that held.

    `base` is the lossless model, which each has to beat; `prepared` the one that is quantized, and
    `equalized` that before its weights were rounded, if they were. `given_up` are passes that took
    long to find that they do nothing here.
    """

    context: Context
    base: Done
    prepared: Done
    kept: tuple[Step, ...]
    equalized: Done | None = None
    given_up: set[str] = field(default_factory=set)

    @property
    def yardstick(self) -> Yardstick | None:
        """What answers are measured against; None where nothing is verified."""
        return self.context.yardstick

    @property
    def timed(self) -> bool:
        """Whether speed counts: the target is this machine."""
        return self.yardstick is not None and self.yardstick.budget.timed

    @cached_property
    def lossless(self) -> Session:
        """The lossless model as it runs."""
        assert self.yardstick is not None
        return Session(self.base.model, optimize=True, threads=self.yardstick.budget.threads)

    @cached_property
    def kernels(self) -> Counter[str]:
        """The kernels that the lossless model runs."""
        return kernels_of(self.base.model)

    @cached_property
    def raised(self) -> Done:
        """What static schemes start from: in the operator set that they raise it to anyway."""
        model = self.prepared.model.clone()
        raise_opset(model, PER_CHANNEL_OPSET)
        return replace(self.prepared, model=model)

    @cached_property
    def float_times(self) -> Mapping[str, float]:
        """How long each kernel of the model takes that is quantized, in microseconds."""
        assert self.yardstick is not None
        threads = self.yardstick.budget.threads
        return kernel_times(self.prepared.unquantized, self.yardstick.timed, threads)

    def asked_for(self, steps: Sequence[Step]) -> list[Step]:
        """Return the steps that the recipe does not skip."""
        return [step for step in steps if step.name not in self.context.recipe.skip]


def prepare(context: Context, base: Done) -> Bench:
    """Run what makes a model easier to quantize, and find its ranges."""
    start = Bench(context, base, base, ())
    equalized = after_steps(start.asked_for([Step(name) for name in PREPARE]), context, base)
    rounded = after_steps(start.asked_for([Step(ROUND)]), context, equalized)
    return _with_ranges(context, base, rounded, equalized)


def without_rounding(bench: Bench) -> Bench:
    """Return what candidates start from if weights are not rounded to their inputs."""
    assert bench.equalized is not None
    equalized = replace(bench.equalized, ranges=bench.prepared.ranges)
    return _with_ranges(bench.context, bench.base, equalized, None)


def _with_ranges(context: Context, base: Done, prepared: Done, equalized: Done | None) -> Bench:
    new = prepared.steps[len(base.steps) :]
    kept = tuple(Step(step.name) for step in new if step.status == "applied")
    ranges = prepared.ranges or find_ranges_for(prepared.model, context)
    found = replace(prepared, ranges=ranges)
    rounded = any(step.name == ROUND for step in kept)
    return Bench(context, base, found, kept, equalized if rounded else None)


def build(
    bench: Bench,
    scheme: Scheme,
    returned: Mapping[str, str] | None = None,
    ranges: Mapping[str, Range] | None = None,
    *,
    corrected: bool = False,
) -> Candidate | None:
    """Build a candidate, unmeasured; None where the scheme finds nothing to do."""
    ops = {node.op_type for node in all_nodes(bench.prepared.model)}
    if scheme.dynamic and not ops & DYNAMIC_OPS:
        return None
    stage(f"trying {scheme.name}" + (f", {len(returned)} nodes in float" if returned else ""))
    plan = Candidate(scheme, bench.prepared, 0, None, None, returned or {}, ranges or {}, corrected)
    start = bench.raised if scheme.ops else bench.prepared
    done = after_steps(steps_for(bench, plan), bench.context, start)
    sites = {step.name: step.sites for step in new_steps(bench, done)}
    if not all(sites.get(name) for name in scheme.makers):
        return None
    return replace(plan, done=done, bytes=weight_bytes(done.model))


def steps_for(bench: Bench, plan: Candidate) -> list[Step]:
    """Return the steps that make a candidate, without those that the recipe skips."""
    steps = steps_of(plan.scheme, plan.returned, plan.ranges, corrected=plan.corrected)
    return bench.asked_for(steps)


def with_correction(bench: Bench, candidate: Candidate) -> Candidate | None:
    """Return a candidate with mean errors taken out of biases, and its answers measured.

    None where that does nothing. It takes as long to run as before.
    """
    if not candidate.scheme.ops or candidate.corrected or CORRECT in bench.given_up:
        return None
    found = build(bench, candidate.scheme, candidate.returned, candidate.ranges, corrected=True)
    if found is None:
        return None
    steps = [step for step in new_steps(bench, found.done) if step.name == CORRECT]
    if not any(step.sites for step in steps):
        if sum(step.seconds for step in steps) > LONG:
            bench.given_up.add(CORRECT)
        return None
    return with_answers(bench, replace(found, latency=candidate.latency))


def new_steps(bench: Bench, done: Done) -> list[StepReport]:
    """Return what the steps of a candidate did."""
    return done.steps[len(bench.prepared.steps) :]


def same(first: Candidate, second: Candidate) -> bool:
    """Say whether two schemes did the same thing to this model."""
    counts = [
        {step.name: step.sites for step in each.done.steps if step.name in COMPUTING and step.sites}
        for each in (first, second)
    ]
    return counts[0] == counts[1]


def with_answers(bench: Bench, candidate: Candidate) -> Candidate:
    """Measure a candidate's answers, where they can be."""
    if bench.yardstick is None:
        return candidate
    return replace(candidate, evidence=judge_answers(bench.yardstick, candidate.done.model))


def with_latency(bench: Bench, candidate: Candidate) -> Candidate:
    """Time a candidate beside the lossless model, where speed counts and it runs.

    One that only stores weights need not be, where ONNX Runtime turns it to the same kernels.
    """
    runs = candidate.evidence is not None and not candidate.evidence.broken
    if not bench.timed or not runs:
        return candidate
    if not candidate.scheme.computes and kernels_of(candidate.done.model) == bench.kernels:
        return replace(candidate, same_kernels=True)
    latency = latency_of(bench, candidate, SECONDS)
    if candidate.scheme.ops and latency.speedup < PROMISING:  # one bad moment says little
        again = latency_of(bench, candidate, SECONDS)
        latency = max(latency, again, key=lambda each: each.speedup)
    return replace(candidate, latency=latency)


def kernels_of(model: ir.Model) -> Counter[str]:
    """Return how many kernels of each operator ONNX Runtime runs for a model."""
    return Counter(node.op_type for node in optimized_graph(model))


def latency_of(
    bench: Bench, candidate: Candidate, seconds: float, *, clear: float = CLEAR
) -> Latency:
    """Return the latency of the lossless model and of a candidate (see `measure_in_turns`)."""
    assert bench.yardstick is not None
    session = bench.yardstick.session(candidate.done.model)
    return bench.yardstick.latency(session, seconds, bench.lossless, clear=clear)
