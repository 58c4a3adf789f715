"""Runs a recipe: lossless passes to a fixpoint, a lossy pass once, each held to its contract."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby

import onnx_ir as ir

from onnxcomp.edits import assign_unique_names, sweep
from onnxcomp.errors import ModelError, OnnxcompError
from onnxcomp.fixpoint import Check, PassFailedError, Tally, bisect, to_fixpoint
from onnxcomp.graph import count_nodes
from onnxcomp.recipe import Step
from onnxcomp.reference import Reference
from onnxcomp.registry import Effect, Outcome, apply, find_pass
from onnxcomp.report import StepReport
from onnxcomp.runtime import first_line, weight_bytes
from onnxcomp.shapes import keep_declared
from onnxcomp.stages import stage
from onnxcomp.structure import order_problems
from onnxcomp.verify import Verdict, judge_lossless

Say = Callable[[str], None]


def run_lossless(
    model: ir.Model,
    steps: Sequence[Step],
    reference: Reference | Callable[[], Reference | None] | None,
    say: Say = lambda _: None,
    accepted: Callable[[Verdict], None] = lambda _: None,
) -> tuple[ir.Model, list[StepReport]]:
    """Run exact and close passes to a fixpoint and return the result; `model` is not changed.

    `reference` may be a function that gives it when it is first needed. `accepted` gets the verdict
    on the result, with the file that was checked.

    When a pass raises, or the result breaks the contract, the guilty pass is found by bisection
    over the applications, left out, and the rest runs again from the start. Without `reference`
    (`--no-verify`) only the structure is checked.
    """
    guilty: dict[str, str] = {}
    while True:
        kept = [step for step in steps if step.name not in guilty]
        try:
            result, trace, tallies = to_fixpoint(model, kept)
        except PassFailedError as failure:
            guilty[failure.name] = failure.reason
            say(f"{failure.name} left out: {failure.reason}")
            continue
        verdict = _judge(model, reference, result, kept)
        if not verdict.problems or not trace:
            accepted(verdict)
            reports = [_report(step, tallies.get(step.name), guilty) for step in steps]
            return result, reports
        name = bisect(model, trace, lambda found: _judge(model, reference, found, steps).problems)
        guilty[name] = verdict.problems[0]
        say(f"{name} left out, it broke the contract: {verdict.problems[0]}")


def _judge(
    original: ir.Model,
    reference: Reference | Callable[[], Reference | None] | None,
    result: ir.Model,
    steps: Iterable[Step],
) -> Verdict:
    stage("comparing with the original")
    keep_declared(result, original)
    reference = reference() if callable(reference) else reference
    if reference is None:
        return Verdict(tuple(order_problems(result)))
    exact = all(find_pass(step.name).effect is Effect.EXACT for step in steps)
    return judge_lossless(reference, result, Effect.EXACT if exact else Effect.CLOSE)


def _report(step: Step, tally: Tally | None, guilty: Mapping[str, str]) -> StepReport:
    effect = find_pass(step.name).effect.value
    if tally is None or step.name in guilty:
        return StepReport(step.name, effect, status="rolled-back", reason=guilty.get(step.name, ""))
    return StepReport(
        step.name,
        effect,
        sites=tally.sites,
        nodes=(tally.nodes[0], tally.nodes[1]) if tally.nodes else (0, 0),
        bytes=(tally.bytes[0], tally.bytes[1]) if tally.bytes else (0, 0),
        seconds=tally.seconds,
        status="applied" if tally.sites else "unchanged",
        left=tally.left,
    )


def run_once(
    model: ir.Model, step: Step, needs: Mapping[str, object], check: Check
) -> tuple[ir.Model, StepReport]:
    """Run one pass on a copy; return the model before it when it raises or `check` has objections.

    Usage errors of the pass (a glob that matches nothing) are the user's to see and are raised; not
    so that ONNX Runtime refuses what a pass tries.
    """
    stage(step.name)
    found = find_pass(step.name)
    started = time.perf_counter()
    nodes, size = count_nodes(model), weight_bytes(model)
    result = model.clone()
    outcome = Outcome(0, ())
    try:
        outcome = apply(found, result, step.options, needs)
        sweep(result)
        assign_unique_names(result)
        keep_declared(result, model)
        problems = check(result) if outcome.sites else ()
    except ModelError as error:
        problems = [str(error)]
    except OnnxcompError:
        raise
    except Exception as error:  # as above: named, rolled back, and the rest still ships
        problems = [f"it raised {type(error).__name__}: {first_line(error)}"]
    status = "rolled-back" if problems else "applied" if outcome.sites else "unchanged"
    kept = result if status == "applied" else model
    return kept, StepReport(
        step.name,
        found.effect.value,
        sites=outcome.sites if status == "applied" else 0,
        nodes=(nodes, count_nodes(kept)),
        bytes=(size, weight_bytes(kept)),
        seconds=time.perf_counter() - started,
        status=status,
        left=outcome.left,
        measured=outcome.measured,
        reason=problems[0] if problems else "",
        settled=outcome.settled,
    )


def runs_once(step: Step) -> bool:
    """Say whether a pass runs once: one that is lossy, or that needs more than the graph."""
    found = find_pass(step.name)
    return found.effect is Effect.LOSSY or not found.reads_only_the_graph


def stretches(steps: Sequence[Step]) -> list[list[Step]]:
    """Cut a recipe into runs of steps that go to a fixpoint and of steps that run once."""
    return [list(group) for _, group in groupby(steps, runs_once)]
