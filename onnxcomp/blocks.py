"""Runs the steps of a recipe: lossless stretches to a fixpoint, what changes numbers in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxcomp.errors import RecipeError
from onnxcomp.judging import judge, judge_answers
from onnxcomp.pipeline import run_lossless, runs_once, stretches
from onnxcomp.recipe import Step
from onnxcomp.registry import find_pass
from onnxcomp.report import StepReport
from onnxcomp.runtime import Session
from onnxcomp.stages import stage
from onnxcomp.stepping import Context, Done, after_steps, against

# A pass that is for speed has to gain this much over the model before it, timed for so long.
WORTH = 1.02
SECONDS = 2.0
# How often the strength of a block that breaks the budget is halved towards what keeps it.
HALVINGS = 5


def run_steps(steps: Sequence[Step], context: Context, done: Done) -> Done:
    """Run steps on what is done so far; each block is accepted or rolled back as a whole."""
    for stretch in stretches(steps):
        run = _run_block if runs_once(stretch[0]) else _run_stretch
        done = run(stretch, context, done)
    return done


def _run_stretch(steps: Sequence[Step], context: Context, done: Done) -> Done:
    after = replace(done, ran=[*done.ran, *steps])
    answers = against(context, done)
    after.model, reports = run_lossless(done.model, steps, answers, context.say, after.accept)
    after.steps = [*done.steps, *reports]
    after.keep_originals()
    return after


def _run_block(steps: Sequence[Step], context: Context, done: Done) -> Done:
    """Run passes one after the other and judge them together.

    Where the result breaks the budget they run again: with less of what they do, where they can do
    less, else each judged by itself, so that the guilty ones are named and left out.
    """
    tried = after_steps(steps, context, done)
    problems = _judge(tried, done, context)
    if problems:
        # To do less helps answers, not speed, which is only looked at where the answers are right.
        wrong = tried.evidence is not None and tried.evidence.latency is None
        milder = _milder(steps, problems[0], context, done) if wrong else None
        tried = milder or _apart(steps, tried, context, done)
    for report in tried.steps[len(done.steps) :]:
        if report.status == "rolled-back":
            context.say(f"warning: {report.name} is not in the result: {report.reason}")
    return tried


def _apart(steps: Sequence[Step], tried: Done, context: Context, done: Done) -> Done:
    """Return what is left of a block whose guilty passes are taken out."""
    if len(_changed(tried, done)) == 1:
        return _without(tried, done, tried.problems[0])
    found = done
    for step in steps:
        after = after_steps([step], context, found)
        problems = _judge(after, found, context)
        found = _without(after, found, problems[0]) if problems else after
    return found


# ---------------------------------------------------------------- doing less
def _milder(steps: Sequence[Step], problem: str, context: Context, done: Done) -> Done | None:
    """Return the result of the most that keeps the budget; None where it is nothing, or not that.

    All strengths of the block go down together, between nothing and what was asked for.
    """
    if not any(_strengths(step) for step in steps):
        return None
    best: Done | None = None
    kept: Sequence[Step] = ()  # as asked: what ran has the ranks that it came to, no strength
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        share = (low + high) / 2
        asked = [_with_strength(step, share) for step in steps]
        try:
            tried = after_steps(asked, context, done)
        except RecipeError:  # a pattern of 2:4 zeroes half or nothing
            return None
        if not _changed(tried, done):  # so little that nothing changes
            low = share
        elif _judge(tried, done, context, timed=False):
            high = share
        else:
            best, kept, low = tried, asked, share
    if best is None or _judge(best, done, context):
        return None
    settled = ", ".join(_described(step) for step in kept if _strengths(step))
    context.say(f"warning: {problem}; the most that was found to keep the budget is {settled}")
    return best


def _strengths(step: Step) -> dict[str, float]:
    """Return the options of a step that say how much it does, with their values."""
    found = find_pass(step.name)
    given = {name: option.default for name, option in found.options.items()} | dict(step.options)
    return {
        name: float(value)
        for name in found.strengths
        if isinstance(value := given.get(name), (int, float)) and value != found.strengths[name]
    }


def _with_strength(step: Step, share: float) -> Step:
    """Return a step that does this share of what it does."""
    nothing = find_pass(step.name).strengths
    less = {
        name: round(nothing[name] + share * (value - nothing[name]), 4)
        for name, value in _strengths(step).items()
    }
    return Step(step.name, {**step.options, **less})


def _described(step: Step) -> str:
    return " ".join([step.name, *(f"{name}={value}" for name, value in _strengths(step).items())])


# ---------------------------------------------------------------- judging
def _changed(after: Done, before: Done) -> list[StepReport]:
    """Return the reports of the lossy steps that changed the model."""
    new = after.steps[len(before.steps) :]
    return [step for step in new if step.effect == "lossy" and step.status == "applied"]


def _judge(done: Done, before: Done, context: Context, *, timed: bool = True) -> Sequence[str]:
    """Note what proves a lossy result, and say how it breaks the budget; `timed`: of speed too."""
    changed = _changed(done, before)
    done.problems = ()
    if not changed:
        return ()
    done.verdict = None
    if context.yardstick is None:
        return ()
    stage("judging the result")
    done.evidence = (judge if timed else judge_answers)(context.yardstick, done.model)
    done.problems = done.evidence.problems
    names = {step.name for step in changed}
    ran = [step for step in done.ran[len(before.ran) :] if find_pass(step.name).name in names]
    if timed and not done.problems and any(_is_for_speed(step) for step in ran):
        done.problems = _slowness(done, before, context)
    return done.problems


def _is_for_speed(step: Step) -> bool:
    """Say whether a step has to make the model faster: what is asked to be smaller has not."""
    return find_pass(step.name).for_speed and not step.options.get("smaller", False)


def _slowness(done: Done, before: Done, context: Context) -> tuple[str, ...]:
    """Say that a result is not faster than what it was made from, where that can be measured."""
    assert context.yardstick is not None
    if not context.yardstick.budget.timed:
        return ()
    threads = context.yardstick.budget.threads
    pair = [Session(each.model, optimize=True, threads=threads) for each in (before, done)]
    latency = context.yardstick.latency(pair[1], SECONDS, pair[0])
    if latency.speedup >= WORTH:
        return ()
    return (f"it is not faster: {latency.before_ms:.3g} ms became {latency.after_ms:.3g} ms",)


def _without(after: Done, before: Done, reason: str) -> Done:
    """Return what was done before, and of the steps after only what they report."""
    changed = _changed(after, before)
    reports = [
        replace(step, status="rolled-back", sites=0, nodes=(step.nodes[0],) * 2,
                bytes=(step.bytes[0],) * 2, reason=reason)
        if step in changed
        else step
        for step in after.steps
    ]  # fmt: skip
    dropped = {step.name for step in changed}
    ran = [
        step for step in after.ran[len(before.ran) :] if find_pass(step.name).name not in dropped
    ]
    return replace(before, steps=reports, ran=[*before.ran, *ran], ranges=after.ranges)
