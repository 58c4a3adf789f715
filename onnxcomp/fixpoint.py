"""Runs lossless passes until none finds anything, and finds the one that went wrong."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxcomp.edits import assign_unique_names, sweep
from onnxcomp.errors import OnnxcompError, UsageError
from onnxcomp.graph import all_nodes
from onnxcomp.recipe import Step, in_fixpoint_order
from onnxcomp.registry import Leave, apply, find_pass
from onnxcomp.runtime import first_line, weight_bytes
from onnxcomp.shapes import infer_shapes
from onnxcomp.stages import stage
from onnxcomp.structure import order_problems

# Rounds of a lossless stretch; each real model so far needs two or three.
MAX_ROUNDS = 20

Check = Callable[[ir.Model], Sequence[str]]


@dataclass(frozen=True)
class Extent:
    """How large a model is: its nodes by operator, and the bytes of its weights."""

    ops: Counter[str]
    bytes: int

    @property
    def nodes(self) -> int:
        """The nodes, subgraphs and functions included."""
        return self.ops.total()


@dataclass(frozen=True)
class Application:
    """One run of a pass in a round of its stretch, and how large the model was after it."""

    step: Step
    round: int
    sites: int
    after: Extent


@dataclass
class Tally:
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


def to_fixpoint(
    model: ir.Model, steps: Sequence[Step]
) -> tuple[ir.Model, list[Application], dict[str, Tally]]:
    """Run passes on a copy until each has found nothing since the last change.

    A pass is not run again while nothing changed: neither the graph nor what is known of shapes.
    """
    steps = in_fixpoint_order(steps)
    result = model.clone()
    tallies = {step.name: Tally() for step in steps}
    trace: list[Application] = []
    extent = measure_extent(result)
    pending = set(range(len(steps)))
    for index in range(MAX_ROUNDS):
        if infer_shapes(result):
            pending = set(range(len(steps)))
        for place, step in enumerate(steps):
            if place not in pending:
                continue
            done = apply_step(result, step, index, tallies[step.name], extent)
            pending.discard(place)
            if done.sites:
                extent = done.after
                trace.append(done)
                pending = set(range(len(steps)))
        if not pending:
            break
    return result, trace, tallies


def measure_extent(model: ir.Model) -> Extent:
    """Return how large a model is."""
    return Extent(Counter(node.op_type for node in all_nodes(model)), weight_bytes(model))


def apply_step(
    model: ir.Model, step: Step, index: int, tally: Tally, before: Extent
) -> Application:
    """Run one pass, sweep what it left over, and check the graph; `before` is its extent now.

    Raises `PassFailedError` when the pass raises, or leaves a graph that is not one.
    """
    found = find_pass(step.name)
    if found.ops and not any(op in before.ops for op in found.ops):
        return Application(step, index, 0, before)
    stage(step.name)
    started = time.perf_counter()
    try:
        outcome = apply(found, model, step.options)
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
    after = measure_extent(model) if outcome.sites else before
    tally.seconds += time.perf_counter() - started
    tally.sites += outcome.sites
    tally.nodes = tally.nodes or [before.nodes, before.nodes]
    tally.bytes = tally.bytes or [before.bytes, before.bytes]
    tally.nodes[1] += after.nodes - before.nodes
    tally.bytes[1] += after.bytes - before.bytes
    return Application(step, index, outcome.sites, after)


def bisect(model: ir.Model, trace: Sequence[Application], problems: Check) -> str:
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
    extent, index = measure_extent(result), -1
    for done in trace:
        if done.round != index:
            infer_shapes(result)
            index = done.round
        extent = apply_step(result, done.step, index, Tally(), extent).after
    return result
