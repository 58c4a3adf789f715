"""Lossless runs as tests want them: unverified, so that no rollback hides what a pass did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir

from onnxcomp.graph import Array
from onnxcomp.parity import ParityMeter
from onnxcomp.pipeline import run_lossless
from onnxcomp.recipe import Step
from onnxcomp.recipe_file import load_recipe
from onnxcomp.reference import narrowest_float
from onnxcomp.registry import Effect, find_pass, list_passes
from onnxcomp.runtime import Session, inline_bytes
from onnxcomp.shapes import keep_declared
from onnxcomp.structure import checker_problem, interface_problems, order_problems

RECIPE = load_recipe("lossless").steps


def every_pass() -> list[str]:
    """Return all lossless passes but `simplify`, which runs another project's code."""
    return [name for name in passes_of_the_graph() if name != "simplify"]


def passes_of_the_graph() -> list[str]:
    """Return the passes that keep the answers and need nothing but the graph."""
    return [
        name
        for name, item in list_passes().items()
        if item.effect != "lossy" and item.reads_only_the_graph
    ]


def optimize(model: ir.Model, steps: Sequence[Step] = RECIPE) -> ir.Model:
    """Run passes to a fixpoint; one that raised or broke the graph is an AssertionError."""
    result, reports = run_lossless(model, steps, None)
    left_out = [f"{r.name}: {r.reason}" for r in reports if r.status == "rolled-back"]
    assert not left_out, f"left out: {left_out}"
    keep_declared(result, model)
    return result


def structure_failures(before: ir.Model, after: ir.Model) -> list[str]:
    """Say how the interface, the order or the checker's verdict is worse than before."""
    failures = interface_problems(before, after)
    if not order_problems(before):
        failures += order_problems(after)
    found = checker_problem(after)
    if found and checker_problem(before) is None:
        failures.append(found)
    return failures


def again_failures(result: ir.Model, steps: Sequence[Step] = RECIPE) -> list[str]:
    """Say what a second run changes in the result of the first."""
    again, reports = run_lossless(result, steps, None)
    keep_declared(again, result)
    failures = [f"again: {r.name} {r.status}" for r in reports if r.status != "unchanged"]
    if not failures and inline_bytes(again) != inline_bytes(result):
        failures.append("again: the bytes differ")
    return failures


def answer_failures(
    before: ir.Model,
    after: ir.Model,
    feeds: Iterable[Mapping[str, Array]],
    steps: Sequence[Step] = RECIPE,
    ignore: frozenset[str] = frozenset(),
) -> list[str]:
    """Say which outputs differ by more than the effects of these passes allow."""
    original, result, meter = Session(before), Session(after), ParityMeter()
    for item in feeds:
        wanted = original.run(item)
        meter.add({name: wanted[name] for name in wanted if name not in ignore}, result.run(item))
    return meter.result().failures(effect_of(steps), narrowest_float(before))


def effect_of(steps: Iterable[Step]) -> Effect:
    """Return what these passes together may change."""
    exact = all(find_pass(step.name).effect is Effect.EXACT for step in steps)
    return Effect.EXACT if exact else Effect.CLOSE
