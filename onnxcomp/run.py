"""One run: load, open the data, run the recipe's stretches, judge, and say what happened."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnxcomp.blocks import run_steps
from onnxcomp.container.reading import is_container
from onnxcomp.cost import measure
from onnxcomp.errors import UsageError
from onnxcomp.inputs import NOTHING_GIVEN, Given, open_inputs
from onnxcomp.int8.search import Choice, choose
from onnxcomp.interface import as_asked, at_opset
from onnxcomp.judging import judge
from onnxcomp.model_io import (
    ModelSource,
    check_plain,
    external_tensors,
    load_model,
    save_model,
    write_bytes,
)
from onnxcomp.recipe import Recipe, as_settled
from onnxcomp.report import Report, Side
from onnxcomp.reporting import report_of
from onnxcomp.runtime import INLINE_LIMIT, weight_bytes
from onnxcomp.stages import Progress, stage
from onnxcomp.stepping import Context, Done
from onnxcomp.verify import judge_lossless
from onnxcomp.yardstick import Yardstick

if TYPE_CHECKING:
    import onnx

Say = Callable[[str], None]


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
    choice = choose(recipe.schemes, context, done) if recipe.schemes else Choice(done)
    done = _proven(context, choice.done)
    stage("measuring")
    settled = as_settled(recipe, done.ran) if recipe.is_lossy else recipe
    report = replace(
        report_of(context, done, _before(source, loaded, asked.whole, context)),
        interface=asked.changes,
        candidates=choice.candidates,
        recipe=settled.to_dict(),
    )
    untouched = not asked.changes and not any(step.status == "applied" for step in done.steps)
    return Result(
        done.model,
        replace(report, seconds=time.perf_counter() - started),
        external=any(True for _ in external_tensors(asked.model)),
        unchanged=Path(path) if path is not None and untouched and not packed else None,
        content=done.verdict.content if done.verdict is not None else None,
        recipe=settled,
    )


def _proven(context: Context, done: Done) -> Done:
    """Hold the result to the original where no step has done so.

    A lossy run has a budget for that, which a large model is not loaded for where nothing is to be
    verified; the answers of others are to be the original's.
    """
    if done.evidence is not None:
        return done
    large = weight_bytes(context.original) >= INLINE_LIMIT and not context.recipe.verify
    budget = context.inputs.budget
    if budget is not None and not large:
        yardstick = context.yardstick or Yardstick(context.original, budget, context.file)
        return replace(done, evidence=judge(yardstick, done.model))
    reference = context.inputs.reference()
    if done.verdict is None and reference is not None:
        return replace(done, verdict=judge_lossless(reference, done.model))
    return done


def _check_settings(recipe: Recipe) -> None:
    """Refuse settings that a lossless recipe would pass over in silence."""
    if recipe.is_lossy:
        return
    for name in ("ranges", "eval", "max_drop", "min_sqnr", "min_speedup", "min_int8_macs"):
        if getattr(recipe, name) is not None:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} says what a lossy recipe may do; add --int8, say")


def _before(source: ModelSource, loaded: ir.Model, whole: ir.Model, context: Context) -> Side:
    size = _bytes_of(source, loaded)
    return Side(_path_of(source), measure(whole, context.inputs.first_feeds, size=size))


def _path_of(source: object) -> str | None:
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else None


def _bytes_of(source: object, model: ir.Model) -> int | None:
    """Return the bytes of the file and of the weights files beside it, or None for others."""
    if not isinstance(source, (str, os.PathLike)) or is_container(source):
        return None
    files = {Path(tensor.path) for _, tensor in external_tensors(model)}
    return Path(source).stat().st_size + sum(file.stat().st_size for file in files)
