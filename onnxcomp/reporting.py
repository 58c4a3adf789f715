"""What a run has to say in the end: the facts of its result, as a report."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from onnxcomp.cost import measure
from onnxcomp.int8_coverage import Coverage, coverage
from onnxcomp.judging import Evidence
from onnxcomp.recipe import Recipe
from onnxcomp.registry import find_pass
from onnxcomp.report import Report, Side, StepReport
from onnxcomp.sparsity import sparsity_of
from onnxcomp.stepping import Context, Done
from onnxcomp.storage import storage_of
from onnxcomp.targets import find_target

# What stores weights alone in fewer bits: int8 kernels are not its business.
STORAGE = {
    "quantize-weights",
    "quantize-blocks",
    "cluster-weights",
    "convert-float16",
    "share-similar-weights",
}
# What leaves zeros of which the report speaks.
PRUNING = "prune-weights"


def report_of(context: Context, done: Done, before: Side) -> Report:
    """Measure a result, and return what there is to say of it; `before` is the original."""
    recipe, evidence, verdict = context.recipe, done.evidence, done.verdict
    feeds = context.inputs.first_feeds
    content = verdict.content if verdict is not None else None
    size = len(content) if content is not None else None
    int8 = _int8(context, done) if _quantizes(recipe) else None
    pruned = any(step.name == PRUNING and step.status != "rolled-back" for step in done.steps)
    return Report(
        before=before,
        after=Side(None, measure(done.model, feeds, size=size)),
        steps=tuple(done.steps),
        parity=evidence.parity if evidence else verdict.parity if verdict else None,
        parity_problems=verdict.problems if verdict else (),
        metric=evidence.metric if evidence else None,
        latency=evidence.latency if evidence else None,
        ranges=done.ranges,
        int8=int8,
        sparsity=sparsity_of(done.model) if pruned else None,
        storage=storage_of(done.model) if _stores(done.steps) and recipe.verify else None,
        peak_mb=peak_megabytes(),
        problems=_shortfalls(recipe, evidence, int8),
    )


def _shortfalls(
    recipe: Recipe, evidence: Evidence | None, int8: Coverage | None
) -> tuple[str, ...]:
    """Say what was required of the result and is not so."""
    found = []
    latency = evidence.latency if evidence is not None else None
    speedup = 1.0 if latency is None else latency.speedup
    if recipe.min_speedup is not None and speedup < recipe.min_speedup:
        found.append(f"the speed-up is {speedup:.2f}x, less than {recipe.min_speedup:g}x")
    share = 0.0 if int8 is None else int8.macs_share or 0.0
    if recipe.min_int8_macs is not None and share < recipe.min_int8_macs:
        found.append(f"{share:.1%} of MACs run in int8, less than {recipe.min_int8_macs:.1%}")
    return tuple(found)


def _stores(steps: Sequence[StepReport]) -> bool:
    """Say whether weights are stored otherwise than they are computed with."""
    return any(step.name in STORAGE and step.status == "applied" for step in steps)


def _quantizes(recipe: Recipe) -> bool:
    """Say whether a recipe is about int8 at all."""
    names = {find_pass(step.name).name for step in recipe.steps} - STORAGE
    steps = any(find_pass(name).family == "quantize" for name in names)
    return bool(recipe.schemes) or steps


def _int8(context: Context, done: Done) -> Coverage:
    left = [item for step in done.steps for item in step.left if step.effect == "lossy"]
    signed = find_target(context.recipe.target).signed
    return coverage(done.model, left, context.inputs.first_feeds, signed=signed)


def peak_megabytes() -> float:
    """Return the peak resident memory of this process in MB; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
