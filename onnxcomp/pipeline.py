"""Runs a recipe: lossless passes to a fixpoint, a lossy pass once, each held to its contract."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxcomp.edits import assign_unique_names, sweep
from onnxcomp.errors import OnnxcompError, UsageError
from onnxcomp.graph import count_nodes
from onnxcomp.recipe import Step
from onnxcomp.registry import Effect, Leave, apply, find_pass
from onnxcomp.report import StepReport
from onnxcomp.runtime import first_line, weight_bytes
from onnxcomp.shapes import infer_shapes
from onnxcomp.verify import Reference, lossless_problems, order_problems, structure_problems

# Rounds of a lossless stretch; each real model so far needs two or three.
MAX_ROUNDS = 20

Say = Callable[[str], None]
Check = Callable[[ir.Model], list[str]]


@dataclass(frozen=True)
class Extent:
    """How large a model is: its nodes, and the bytes of its weights."""

    nodes: int
    bytes: int


@dataclass(frozen=True)
class Application:
    """One run of a pass in a round of its stretch, and how large the model was after it."""

    step: Step
    round: int
    sites: int
    after: Extent


@dataclass
class _Tally:
    """What a pass did over all rounds of its stretch."""

    sites: int = 0
    nodes: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    seconds: float = 0.0
    left: tuple[Leave, ...] = ()


class PassFailedError(Exception):
    """A pass raised, or left a graph that is not one."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason


def run_lossless(
    model: ir.Model,
    steps: Sequence[Step],
    reference: Reference | None,
    say: Say = lambda _: None,
) -> tuple[ir.Model, list[StepReport]]:
    """Run exact and close passes to a fixpoint and return the result; `model` is not changed.

    When a pass raises, or the result breaks the contract, the guilty pass is found by bisection
    over the applications, left out, and the rest runs again from the start. Without `reference`
    (`--no-verify`) only the structure is checked.
    """
    guilty: dict[str, str] = {}
    while True:
        kept = [step for step in steps if step.name not in guilty]
        try:
            result, trace, tallies = _to_fixpoint(model, kept)
        except PassFailedError as failure:
            guilty[failure.name] = failure.reason
            say(f"{failure.name} left out: {failure.reason}")
            continue
        problems = _problems(reference, result, kept)
        if not problems or not trace:
            reports = [_report(step, tallies.get(step.name), guilty) for step in steps]
            return result, reports
        name = _bisect(model, trace, lambda found: _problems(reference, found, steps))
        guilty[name] = problems[0]
        say(f"{name} left out, it broke the contract: {problems[0]}")


def _problems(reference: Reference | None, model: ir.Model, steps: Iterable[Step]) -> list[str]:
    if reference is None:
        return order_problems(model)
    exact = all(find_pass(step.name).effect is Effect.EXACT for step in steps)
    return lossless_problems(reference, model, Effect.EXACT if exact else Effect.CLOSE)


def _to_fixpoint(
    model: ir.Model, steps: Sequence[Step]
) -> tuple[ir.Model, list[Application], dict[str, _Tally]]:
    result = model.clone()
    tallies = {step.name: _Tally() for step in steps}
    trace: list[Application] = []
    extent = _extent(result)
    for index in range(MAX_ROUNDS):
        infer_shapes(result)
        known = len(trace)
        for step in steps:
            done = _apply(result, step, index, tallies[step.name], extent)
            extent = done.after
            trace += [done] if done.sites else []
        if len(trace) == known:
            break
    return result, trace, tallies


def _extent(model: ir.Model) -> Extent:
    return Extent(count_nodes(model), weight_bytes(model))


def _apply(model: ir.Model, step: Step, index: int, tally: _Tally, before: Extent) -> Application:
    started = time.perf_counter()
    try:
        outcome = apply(find_pass(step.name), model, step.options)
    except UsageError:
        raise  # the user's to see: a missing package, a glob that matches nothing
    except OnnxcompError as error:
        raise PassFailedError(step.name, str(error)) from error
    except Exception as error:  # a pass may fail in any way; it is named and left out
        reason = f"it raised {type(error).__name__}: {first_line(error)}"
        raise PassFailedError(step.name, reason) from error
    tally.left = outcome.left
    if outcome.sites:
        sweep(model)
        assign_unique_names(model)
        problems = order_problems(model)
        if problems:
            raise PassFailedError(step.name, problems[0])
    after = _extent(model) if outcome.sites else before
    tally.seconds += time.perf_counter() - started
    tally.sites += outcome.sites
    tally.nodes = tally.nodes or [before.nodes, before.nodes]
    tally.bytes = tally.bytes or [before.bytes, before.bytes]
    tally.nodes[1] += after.nodes - before.nodes
    tally.bytes[1] += after.bytes - before.bytes
    return Application(step, index, outcome.sites, after)


def _bisect(model: ir.Model, trace: Sequence[Application], problems: Check) -> str:
    """Return the pass whose application first broke the contract, by binary search over replays.

    Passes are deterministic, so a replay of the first k applications from the snapshot gives the
    model as it was after them.
    """
    good, bad = 0, len(trace)
    while bad - good > 1:
        middle = (good + bad) // 2
        if problems(_replay(model, trace[:middle])):
            bad = middle
        else:
            good = middle
    return trace[bad - 1].step.name


def _replay(model: ir.Model, trace: Sequence[Application]) -> ir.Model:
    result = model.clone()
    extent, index = _extent(result), -1
    for done in trace:
        if done.round != index:
            infer_shapes(result)
            index = done.round
        extent = _apply(result, done.step, index, _Tally(), extent).after
    return result


def _report(step: Step, tally: _Tally | None, guilty: Mapping[str, str]) -> StepReport:
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


def run_lossy(
    model: ir.Model,
    step: Step,
    needs: Mapping[str, object],
    accept: Check,
    reference: Reference | None,
) -> tuple[ir.Model, StepReport]:
    """Run one lossy pass on a copy; return the model before it when the result is not accepted.

    `accept` says how the result breaks the budget. Usage errors of the pass (a glob that matches
    nothing) are the user's to see and are raised.
    """
    found = find_pass(step.name)
    started = time.perf_counter()
    nodes, size = count_nodes(model), weight_bytes(model)
    result = model.clone()
    left: tuple[Leave, ...] = ()
    sites = 0
    try:
        outcome = apply(found, result, step.options, needs)
        sites, left = outcome.sites, outcome.left
        sweep(result)
        assign_unique_names(result)
        problems = _lossy_problems(reference, result) or (accept(result) if sites else [])
    except OnnxcompError:
        raise
    except Exception as error:  # as above: named, rolled back, and the rest still ships
        problems = [f"it raised {type(error).__name__}: {first_line(error)}"]
    seconds = time.perf_counter() - started
    if problems:
        status, kept, reason, sites = "rolled-back", model, problems[0], 0
    else:
        status, kept, reason = ("applied" if sites else "unchanged"), result, ""
    after = (count_nodes(kept), weight_bytes(kept))
    return kept, StepReport(
        step.name,
        found.effect.value,
        sites=sites,
        nodes=(nodes, after[0]),
        bytes=(size, after[1]),
        seconds=seconds,
        status=status,
        left=left,
        reason=reason,
    )


def _lossy_problems(reference: Reference | None, model: ir.Model) -> list[str]:
    if reference is None:
        return order_problems(model)
    return structure_problems(reference, model)


def stretches(steps: Sequence[Step]) -> list[list[Step]]:
    """Cut a recipe into runs of lossless steps and single lossy ones."""
    groups: list[list[Step]] = []
    for step in steps:
        lossy = find_pass(step.name).effect is Effect.LOSSY
        if groups and not lossy and find_pass(groups[-1][0].name).effect is not Effect.LOSSY:
            groups[-1].append(step)
        else:
            groups.append([step])
    return groups
