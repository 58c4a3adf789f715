"""Runs the steps of a recipe: lossless stretches to a fixpoint, what changes numbers in blocks."""

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
from onnxcomp.errors import UsageError
from onnxcomp.fixpoint import Check
from onnxcomp.graph import all_nodes, label
from onnxcomp.inputs import Given, Inputs
from onnxcomp.judging import Evidence, judge
from onnxcomp.pipeline import Say, run_lossless, run_once, runs_once, stretches
from onnxcomp.recipe import Recipe, Step
from onnxcomp.reference import Reference, make_reference
from onnxcomp.registry import Effect, find_pass
from onnxcomp.report import StepReport
from onnxcomp.stages import Progress, stage
from onnxcomp.structure import order_problems
from onnxcomp.targets import find_target
from onnxcomp.verify import Verdict, judge_lossless, structure_problems
from onnxcomp.yardstick import Yardstick

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

    `exact` is the model before the first step that changes numbers.
    """

    model: ir.Model
    exact: ir.Model
    steps: list[StepReport] = field(default_factory=list)
    evidence: Evidence | None = None
    verdict: Verdict | None = None
    ranges: Ranges | None = None

    @property
    def is_lossy(self) -> bool:
        """Whether a lossy step changed the model."""
        return any(step.effect == "lossy" and step.status == "applied" for step in self.steps)

    def accept(self, verdict: Verdict) -> None:
        """Note what proves a lossless stretch."""
        self.verdict = verdict


def run_steps(steps: Sequence[Step], context: Context, done: Done) -> Done:
    """Run steps on what is done so far; each block is accepted or rolled back as a whole."""
    for stretch in stretches(steps):
        run = _run_block if runs_once(stretch[0]) else _run_stretch
        done = run(stretch, context, done)
    return done


def _run_stretch(steps: Sequence[Step], context: Context, done: Done) -> Done:
    after = replace(done)
    against = _against(context, done)
    after.model, reports = run_lossless(done.model, steps, against, context.say, after.accept)
    after.steps = [*done.steps, *reports]
    if not after.is_lossy:
        after.exact = after.model
    return after


def _against(context: Context, done: Done) -> Against:
    """Return what answers are held to: the original's, or those of the lossy model so far."""
    if context.inputs.pending is not None and done.is_lossy:
        return partial(make_reference, done.model, context.inputs.feeds)
    return context.inputs.reference


# ---------------------------------------------------------------- blocks
def _run_block(steps: Sequence[Step], context: Context, done: Done) -> Done:
    """Run passes one after the other and judge them together.

    Where the result breaks the budget they run again, each judged by itself, so that the guilty
    ones are named and left out.
    """
    tried = after_steps(steps, context, done)
    problems = _judge(tried, context) if _changed(tried, done) else ()
    if problems and len(_changed(tried, done)) == 1:
        tried = _without(tried, done, problems[0])
    elif problems:
        tried = done
        for step in steps:
            after = after_steps([step], context, tried)
            problems = _judge(after, context) if _changed(after, tried) else ()
            tried = _without(after, tried, problems[0]) if problems else after
    for report in tried.steps[len(done.steps) :]:
        if report.status == "rolled-back":
            context.say(f"warning: {report.name} is not in the result: {report.reason}")
    return tried


def after_steps(steps: Sequence[Step], context: Context, done: Done) -> Done:
    """Return what is done after these steps too; only the structure of each result is judged."""
    after = replace(done, steps=list(done.steps))
    for step in steps:
        found = find_pass(step.name)
        if ("ranges" in found.needs or found.keeps_ranges) and after.ranges is None:
            after.ranges = find_ranges_for(after.model, context)
        needs = {
            "target": find_target(context.recipe.target),
            "samples": context.inputs.calibration,
            "original": after.exact,
            "unfused": context.original,
            "ranges": after.ranges,
        }
        check = structure_check(context) if found.effect is Effect.LOSSY else _close(context, after)
        after.model, report = run_once(after.model, _chosen(step, context, after), needs, check)
        after.steps.append(report)
        if not after.is_lossy:
            after.exact = after.model
    return after


def _chosen(step: Step, context: Context, done: Done) -> Step:
    """Add the nodes that the whole recipe excludes to those of a step, where these still are."""
    globs = context.recipe.exclude
    if not globs or "exclude" not in find_pass(step.name).options:
        return step
    check_globs(done.exact, globs)
    names = [label(node) for node in all_nodes(done.model)]
    present = [glob for glob in globs if any(fnmatchcase(name, glob) for name in names)]
    own = str(step.options.get("exclude", ""))
    return Step(step.name, {**step.options, "exclude": ",".join(filter(None, [own, *present]))})


def check_globs(model: ir.Model, globs: Sequence[str]) -> None:
    """Raise `UsageError` for a glob that matches no node."""
    names = [label(node) for node in all_nodes(model)]
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in names):
            raise UsageError(
                f"exclude {glob!r} matches no node; `onnxcomp inspect --layers` lists their names"
            )


def structure_check(context: Context) -> Check:
    """Return what says how the structure of a model breaks the contract."""
    reference = context.inputs.reference()
    if reference is None:
        return order_problems
    return partial(structure_problems, reference)


def _close(context: Context, done: Done) -> Check:
    """Return what says how a model's answers differ from those before it by more than rounding."""
    against = _against(context, done)()
    if against is None:
        return order_problems
    return lambda model: judge_lossless(against, model).problems


def _changed(after: Done, before: Done) -> list[StepReport]:
    """Return the reports of the lossy steps that changed the model."""
    new = after.steps[len(before.steps) :]
    return [step for step in new if step.effect == "lossy" and step.status == "applied"]


def _judge(done: Done, context: Context) -> Sequence[str]:
    """Note what proves a lossy result, and say how it breaks the budget."""
    done.verdict = None
    if context.yardstick is None:
        return ()
    stage("judging the result")
    done.evidence = judge(context.yardstick, done.model)
    return done.evidence.problems


def _without(after: Done, before: Done, reason: str) -> Done:
    """Return what was done before, and of the steps after only what they report."""
    reports = [
        replace(step, status="rolled-back", sites=0, nodes=(step.nodes[0],) * 2,
                bytes=(step.bytes[0],) * 2, reason=reason)
        if step in _changed(after, before)
        else step
        for step in after.steps
    ]  # fmt: skip
    return replace(before, steps=reports, ranges=after.ranges)


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
