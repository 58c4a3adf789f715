"""Runs passes that need more than the graph, with what they need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property, partial
from pathlib import Path

import onnx_ir as ir

from onnxcomp.calibrating import Extras, calibrate_by
from onnxcomp.calibration.caching import ranges_in
from onnxcomp.calibration.ranges import Ranges
from onnxcomp.exclusion import check_globs
from onnxcomp.fixpoint import Check
from onnxcomp.graph import all_nodes, label
from onnxcomp.inputs import Given, Inputs
from onnxcomp.judging import Evidence
from onnxcomp.pipeline import Say, run_once
from onnxcomp.recipe import Recipe, Step
from onnxcomp.reference import Reference, make_reference
from onnxcomp.registry import Effect, find_pass
from onnxcomp.report import StepReport
from onnxcomp.stages import Progress
from onnxcomp.structure import order_problems
from onnxcomp.targets import find_target
from onnxcomp.verify import Verdict, judge_lossless, structure_problems
from onnxcomp.yardstick import Yardstick

# The family of passes that store numbers in fewer bits.
QUANTIZE = "quantize"

Against = Callable[[], Reference | None]


@dataclass(frozen=True)
class Context:
    """What stays the same over a run; `file` holds the original, where there is one that does."""

    original: ir.Model
    recipe: Recipe
    given: Given
    inputs: Inputs
    say: Say
    progress: Progress | None = None
    file: str | None = None

    @cached_property
    def yardstick(self) -> Yardstick | None:
        """What lossy results are measured against, unless nothing is verified."""
        if self.inputs.budget is None or self.inputs.pending is None:
            return None
        return Yardstick(self.original, self.inputs.budget, self.file)


@dataclass
class Done:
    """The result of the steps so far, and what proves it.

    `exact` is the model before the first step that changes numbers, `unquantized` that before the
    first that stores them in fewer bits. `ran` are the steps that give the same result again, with
    what was measured on the way settled. `problems` say how the last block breaks the budget.
    """

    model: ir.Model
    exact: ir.Model
    unquantized: ir.Model
    steps: list[StepReport] = field(default_factory=list)
    ran: list[Step] = field(default_factory=list)
    evidence: Evidence | None = None
    verdict: Verdict | None = None
    ranges: Ranges | None = None
    problems: Sequence[str] = ()

    @property
    def is_lossy(self) -> bool:
        """Whether a lossy step changed the model."""
        return any(step.effect == "lossy" and step.status == "applied" for step in self.steps)

    @property
    def is_quantized(self) -> bool:
        """Whether a lossy step of quantization changed the model."""
        return any(
            step.effect == "lossy"
            and step.status == "applied"
            and find_pass(step.name).family == QUANTIZE
            for step in self.steps
        )

    def keep_originals(self) -> None:
        """Note the model as the one that later steps start from, as far as that is still so."""
        if not self.is_lossy:
            self.exact = self.model
        if not self.is_quantized:
            self.unquantized = self.model

    def accept(self, verdict: Verdict) -> None:
        """Note what proves a lossless stretch."""
        self.verdict = verdict


def against(context: Context, done: Done) -> Against:
    """Return what answers are held to: the original's, or those of the lossy model so far."""
    if context.inputs.pending is not None and done.is_lossy:
        return partial(make_reference, done.model, context.inputs.feeds)
    return context.inputs.reference


def after_steps(steps: Sequence[Step], context: Context, done: Done) -> Done:
    """Return what is done after these steps too; only the structure of each result is judged."""
    after = replace(done, steps=list(done.steps), ran=list(done.ran))
    for step in steps:
        found = find_pass(step.name)
        if ("ranges" in found.needs or found.keeps_ranges) and after.ranges is None:
            after.ranges = find_ranges_for(after.model, context)
        needs = {
            "target": find_target(context.recipe.target),
            "samples": context.inputs.calibration,
            "original": after.unquantized if found.family == QUANTIZE else after.exact,
            "unfused": context.original,
            "ranges": after.ranges,
        }
        check = structure_check(context) if found.effect is Effect.LOSSY else _close(context, after)
        after.model, report = run_once(after.model, _chosen(step, context, after), needs, check)
        after.steps.append(report)
        after.ran.append(_settled(step, report))
        after.keep_originals()
    return after


def _settled(step: Step, report: StepReport) -> Step:
    """Return a step with what it measured in the place of what it was asked to measure."""
    options = {**step.options, **report.settled}
    return Step(step.name, {name: value for name, value in options.items() if value is not None})


def _chosen(step: Step, context: Context, done: Done) -> Step:
    """Add the nodes that the whole recipe excludes to those of a step, where these still are."""
    globs = context.recipe.exclude
    if not globs or "exclude" not in find_pass(step.name).options:
        return step
    check_globs(done.exact, globs, "exclude")
    names = [label(node) for node in all_nodes(done.model)]
    present = [glob for glob in globs if any(fnmatchcase(name, glob) for name in names)]
    own = str(step.options.get("exclude", ""))
    return Step(step.name, {**step.options, "exclude": ",".join(filter(None, [own, *present]))})


def structure_check(context: Context) -> Check:
    """Return what says how the structure of a model breaks the contract."""
    reference = context.inputs.reference()
    if reference is None:
        return order_problems
    return partial(structure_problems, reference)


def _close(context: Context, done: Done) -> Check:
    """Return what says how a model's answers differ from those before it by more than rounding."""
    answers = against(context, done)()
    if answers is None:
        return order_problems
    return lambda model: judge_lossless(answers, model).problems


# ---------------------------------------------------------------- ranges
def find_ranges_for(model: ir.Model, context: Context) -> Ranges:
    """Return the ranges of a model's values: those given, those of a file, or newly found ones."""
    recipe, given, samples = context.recipe, context.given, context.inputs.calibration
    if given.ranges is not None:
        return given.ranges
    if recipe.ranges is not None and recipe.calib is None and given.calib is None:
        return ranges_in(Path(recipe.ranges), model, context.say)
    assert samples is not None
    extras = Extras(executor=given.executor)
    return calibrate_by(
        recipe, context.original, model, samples, extras, context.say, context.progress
    )
