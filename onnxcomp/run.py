"""One run: load, open the data, run the recipe's stretches, judge, and say what happened."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnxcomp.blocks import run_steps
from onnxcomp.container.reading import is_container
from onnxcomp.cost import measure
from onnxcomp.errors import UsageError
from onnxcomp.graph import Array
from onnxcomp.inputs import NOTHING_GIVEN, Given, open_inputs
from onnxcomp.int8.search import choose
from onnxcomp.int8_coverage import Coverage, coverage
from onnxcomp.interface import as_asked, at_opset
from onnxcomp.judging import Evidence, judge
from onnxcomp.model_io import (
    ModelSource,
    check_plain,
    external_tensors,
    load_model,
    save_model,
    write_bytes,
)
from onnxcomp.recipe import Recipe, as_settled
from onnxcomp.registry import find_pass
from onnxcomp.report import Report, Side, StepReport
from onnxcomp.runtime import INLINE_LIMIT, weight_bytes
from onnxcomp.sparsity import sparsity_of
from onnxcomp.stages import Progress, stage
from onnxcomp.stepping import Context, Done
from onnxcomp.storage import storage_of
from onnxcomp.verify import judge_lossless
from onnxcomp.yardstick import Yardstick

if TYPE_CHECKING:
    import onnx

Say = Callable[[str], None]
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


@dataclass(frozen=True)
class Result:
    """An optimized model and what happened on the way.

    `unchanged` is the source's own file when no pass found anything to do; `content` the very file
    that was verified, where that was held. `recipe` makes the same result again: what a search
    decided, timings included, stands in it as steps.
    """

    model: ir.Model
    report: Report
    external: bool = False
    unchanged: Path | None = None
    content: bytes | None = None
    recipe: Recipe = Recipe()

    def to_proto(self) -> onnx.ModelProto:
        """Return the model as protobuf."""
        return ir.to_proto(self.model)

    def save(self, path: str | os.PathLike[str]) -> int:
        """Write the model atomically and return its bytes; an unchanged one byte for byte."""
        check_plain(Path(path))
        if self.unchanged is not None and not self.external:
            return write_bytes(Path(path), self.unchanged.read_bytes())
        if self.content is not None and not self.external:
            return write_bytes(Path(path), self.content)
        return save_model(self.model, Path(path), external=self.external)


def run_recipe(
    source: ModelSource,
    recipe: Recipe,
    given: Given = NOTHING_GIVEN,
    say: Say = lambda _: None,
    progress: Progress | None = None,
) -> Result:
    """Run a recipe on a model that is not changed, and return the result with its report."""
    with _no_collection():
        return _run(source, recipe, given, say, progress)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pause the collector of cycles: a graph is one, lives to the end, and is large to search."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _run(
    source: ModelSource,
    recipe: Recipe,
    given: Given,
    say: Say,
    progress: Progress | None,
) -> Result:
    started = time.perf_counter()
    _check_settings(recipe)
    stage("loading")
    loaded = load_model(source)
    asked = as_asked(loaded, recipe)
    path = _path_of(source)
    packed = path is not None and is_container(path)
    file = path if asked.model is loaded and not packed else None
    inputs = open_inputs(asked.model, recipe, given, say, file)
    if recipe.opset is not None:
        asked = at_opset(asked, recipe.opset, inputs.reference())
        file = None
    context = Context(asked.model, recipe, given, inputs, say, progress, file)
    done = run_steps(recipe.steps, context, Done(asked.model, asked.model, asked.model))
    choice = choose(recipe.schemes, context, done) if recipe.schemes else None
    if choice is not None:
        done = choice.done
    evidence, shapes = done.evidence, inputs.feeds[0] if inputs.feeds else None
    large = weight_bytes(asked.model) >= INLINE_LIMIT and not recipe.verify
    if evidence is None and inputs.budget is not None and not large:
        evidence = judge(
            context.yardstick or Yardstick(asked.model, inputs.budget, file), done.model
        )
    verdict = done.verdict
    reference = inputs.reference()
    if verdict is None and evidence is None and reference is not None:
        verdict = judge_lossless(reference, done.model)
    content = verdict.content if verdict is not None else None
    size = len(content) if content is not None else None
    stage("measuring")
    settled = as_settled(recipe, done.ran) if recipe.is_lossy else recipe
    int8 = _int8(done.model, done.steps, shapes) if _quantizes(recipe) else None
    pruned = any(step.name == PRUNING and step.status != "rolled-back" for step in done.steps)
    report = Report(
        before=Side(path, measure(asked.whole, shapes, size=_bytes_of(source, loaded))),
        after=Side(None, measure(done.model, shapes, size=size)),
        steps=tuple(done.steps),
        parity=evidence.parity if evidence else verdict.parity if verdict else None,
        parity_problems=verdict.problems if verdict else (),
        interface=asked.changes,
        metric=evidence.metric if evidence else None,
        latency=evidence.latency if evidence else None,
        ranges=done.ranges,
        int8=int8,
        sparsity=sparsity_of(done.model) if pruned else None,
        storage=storage_of(done.model) if _stores(done.steps) and recipe.verify else None,
        candidates=choice.candidates if choice is not None else (),
        seconds=time.perf_counter() - started,
        peak_mb=peak_megabytes(),
        recipe=settled.to_dict(),
        problems=_shortfalls(recipe, evidence, int8),
    )
    untouched = not asked.changes and not any(step.status == "applied" for step in done.steps)
    return Result(
        done.model,
        report,
        external=any(True for _ in external_tensors(asked.model)),
        unchanged=Path(path) if path is not None and untouched and not packed else None,
        content=content,
        recipe=settled,
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


def _check_settings(recipe: Recipe) -> None:
    """Refuse settings that a lossless recipe would pass over in silence."""
    if recipe.is_lossy:
        return
    for name in ("ranges", "eval", "max_drop", "min_sqnr", "min_speedup", "min_int8_macs"):
        if getattr(recipe, name) is not None:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} says what a lossy recipe may do; add --int8, say")


# ---------------------------------------------------------------- the report's facts
def _path_of(source: object) -> str | None:
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else None


def _bytes_of(source: object, model: ir.Model) -> int | None:
    """Return the bytes of the file and of the weights files beside it, or None for others."""
    if not isinstance(source, (str, os.PathLike)) or is_container(source):
        return None
    files = {Path(tensor.path) for _, tensor in external_tensors(model)}
    return Path(source).stat().st_size + sum(file.stat().st_size for file in files)


def _int8(model: ir.Model, steps: list[StepReport], feeds: Mapping[str, Array] | None) -> Coverage:
    left = [item for step in steps for item in step.left if step.effect == "lossy"]
    return coverage(model, left, feeds)


def peak_megabytes() -> float:
    """Return the peak resident memory of this process in MB; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
