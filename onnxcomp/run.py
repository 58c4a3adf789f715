"""One run: load, open the data, run the recipe's stretches, judge, and say what happened."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnxcomp.acceptance import (
    DEFAULT_MAX_DROP,
    DEFAULT_MIN_SQNR,
    Budget,
    Evidence,
    Score,
    judge,
    top1_of,
    user_score,
)
from onnxcomp.calibration.collect import collect_ranges
from onnxcomp.calibration.ranges import Ranges, read_ranges
from onnxcomp.calibration.samples import Samples, open_samples, split
from onnxcomp.calibration.synthetic import runnable_feeds
from onnxcomp.cost import measure
from onnxcomp.errors import ModelError, UsageError
from onnxcomp.graph import Array
from onnxcomp.int8_coverage import Coverage, coverage
from onnxcomp.model_io import external_tensors, load_model, save_model, write_bytes
from onnxcomp.parity import Parity
from onnxcomp.pipeline import run_lossless, run_lossy, stretches
from onnxcomp.recipe import Recipe, Step
from onnxcomp.registry import Effect, find_pass
from onnxcomp.report import Report, Side, StepReport
from onnxcomp.runtime import input_specs
from onnxcomp.shapes import keep_declared
from onnxcomp.targets import detect, find_target
from onnxcomp.verify import Reference, make_reference, plain_parity

if TYPE_CHECKING:
    import onnx

# Every result is compared on this many random feeds, at two sizes where sizes are free, and on
# this many of the user's samples.
RANDOM_FEEDS = 2
REAL_FEEDS = 2

Say = Callable[[str], None]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Result:
    """An optimized model and what happened on the way.

    `unchanged` is the source's own file when no pass found anything to do.
    """

    model: ir.Model
    report: Report
    external: bool = False
    unchanged: Path | None = None

    def to_proto(self) -> onnx.ModelProto:
        """Return the model as protobuf."""
        return ir.to_proto(self.model)

    def save(self, path: str | os.PathLike[str]) -> int:
        """Write the model atomically and return its bytes; an unchanged one byte for byte."""
        if self.unchanged is not None and not self.external:
            return write_bytes(Path(path), self.unchanged.read_bytes())
        return save_model(self.model, Path(path), external=self.external)


@dataclass(frozen=True)
class Given:
    """Python objects that stand for what a recipe names: data, ranges, metric."""

    calib: object = None
    ranges: Ranges | None = None
    score: Score | None = None


@dataclass(frozen=True)
class _Data:
    """The data of a run: what to compare, calibrate and accept on."""

    feeds: tuple[Mapping[str, Array], ...]
    calibration: Samples | None
    budget: Budget | None


def run_recipe(
    source: str | os.PathLike[str] | onnx.ModelProto | ir.Model,
    recipe: Recipe,
    given: Given = Given(),
    say: Say = lambda _: None,
    progress: Progress | None = None,
) -> Result:
    """Run a recipe on a model that is not changed, and return the result with its report."""
    started = time.perf_counter()
    _check_settings(recipe)
    model = load_model(source)
    data = _open_data(model, recipe, given, say)
    reference = _reference(model, recipe, data)
    current, steps, evidence = _run_steps(model, recipe, given, data, reference, say, progress)
    keep_declared(current, model)
    plain = plain_parity(reference, current) if evidence is None else None
    if evidence is None and data.budget is not None:
        evidence = judge(model, current, data.budget)
    shapes = data.feeds[0] if data.feeds else None
    report = Report(
        before=Side(_path_of(source), measure(model, shapes, size=_bytes_of(source, model))),
        after=Side(None, measure(current, shapes)),
        steps=tuple(steps),
        parity=evidence.parity if evidence else plain,
        parity_problems=_broken_promise(reference, plain),
        metric=evidence.metric if evidence else None,
        latency=evidence.latency if evidence else None,
        int8=_int8(current, steps, shapes) if recipe.is_lossy else None,
        seconds=time.perf_counter() - started,
        peak_mb=peak_megabytes(),
        recipe=recipe.to_dict(),
    )
    path = report.before.path
    untouched = path is not None and not any(step.status == "applied" for step in steps)
    return Result(
        current,
        report,
        external=any(True for _ in external_tensors(model)),
        unchanged=Path(path) if path is not None and untouched else None,
    )


def _check_settings(recipe: Recipe) -> None:
    """Refuse settings that a lossless recipe would pass over in silence."""
    if recipe.is_lossy:
        return
    for name in ("ranges", "eval", "max_drop", "min_sqnr"):
        if getattr(recipe, name) is not None:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} says what a lossy recipe may do; add --int8")


def _broken_promise(reference: Reference | None, plain: Parity | None) -> tuple[str, ...]:
    """Say how a lossless result differs; the pipeline has seen to it that it does not."""
    if reference is None or plain is None:
        return ()
    return tuple(plain.failures(Effect.CLOSE, reference.precision))


# ---------------------------------------------------------------- data
def _warn(say: Say, text: str) -> None:
    say(f"warning: {text}")


def _open_data(model: ir.Model, recipe: Recipe, given: Given, say: Say) -> _Data:
    samples = _samples(model, recipe, given, say)
    calibration, held_out = split(samples) if samples is not None else (None, None)
    budget = _budget(recipe, given, held_out) if recipe.is_lossy and held_out else None
    if not recipe.verify and samples is None:
        return _Data((), calibration, budget)
    real = list(itertools.islice(held_out, REAL_FEEDS)) if held_out is not None else []
    try:
        random = runnable_feeds(model, RANDOM_FEEDS, recipe.seed) if recipe.verify else []
    except ModelError as error:
        if "cannot load" in str(error):
            raise ModelError(f"{error}; --no-verify optimizes it unchecked") from error
        if not real:
            _warn(say, f"answers were not compared: {error}")
        random = []
    return _Data((*real, *random), calibration, budget)


def _samples(model: ir.Model, recipe: Recipe, given: Given, say: Say) -> Samples | None:
    spec = given.calib if given.calib is not None else recipe.calib
    if spec is None and not recipe.is_lossy:
        return None
    if spec is None:
        if given.ranges is None and recipe.ranges is None:
            _warn(
                say,
                "no calibration data: ranges come from RANDOM samples, so accuracy on real data "
                "is likely to be lost; pass --calib",
            )
        spec = "random"
    return open_samples(
        spec, input_specs(model), limit=recipe.samples, seed=recipe.seed, model=model
    )


def _budget(recipe: Recipe, given: Given, held_out: Samples) -> Budget:
    score, max_drop = given.score, recipe.max_drop
    name = recipe.eval or "metric"
    if score is None and recipe.eval is not None:
        score = user_score(recipe.eval)
    if score is None and held_out.labels is not None:
        score, name = top1_of(held_out), "top-1 of the labelled samples held out"
        max_drop = DEFAULT_MAX_DROP if max_drop is None else max_drop
    if score is None and max_drop is not None:
        raise UsageError("--max-drop needs a metric: pass --eval FILE.py:FUNC or labelled samples")
    min_sqnr = recipe.min_sqnr
    if min_sqnr is None and max_drop is None:
        min_sqnr = DEFAULT_MIN_SQNR
    here = recipe.target in ("auto", detect())
    return Budget(held_out, score, name, max_drop, min_sqnr, timed=here, threads=recipe.threads)


def _reference(model: ir.Model, recipe: Recipe, data: _Data) -> Reference | None:
    return make_reference(model, data.feeds) if recipe.verify else None


# ---------------------------------------------------------------- steps
def _run_steps(
    model: ir.Model,
    recipe: Recipe,
    given: Given,
    data: _Data,
    reference: Reference | None,
    say: Say,
    progress: Progress | None,
) -> tuple[ir.Model, list[StepReport], Evidence | None]:
    current, evidence = model, None
    reports: list[StepReport] = []
    for stretch in stretches(recipe.steps):
        if find_pass(stretch[0].name).effect is not Effect.LOSSY:
            against = reference
            if reference is not None and evidence is not None:
                against = make_reference(current, data.feeds)
            current, found = run_lossless(current, stretch, against, say)
            reports += found
            continue
        accepted: list[Evidence] = []

        def accept(candidate: ir.Model, accepted: list[Evidence] = accepted) -> list[str]:
            if data.budget is None or not recipe.verify:
                return []
            accepted.append(judge(model, candidate, data.budget))
            return list(accepted[-1].problems)

        needs = _needs(current, stretch[0], recipe, given, data, progress)
        current, report = run_lossy(current, stretch[0], needs, accept, reference)
        reports.append(report)
        if report.status == "applied" and accepted:
            evidence = accepted[-1]
        if report.status == "rolled-back":
            _warn(say, f"{report.name} is not in the result: {report.reason}")
    return current, reports, evidence


def _needs(
    model: ir.Model,
    step: Step,
    recipe: Recipe,
    given: Given,
    data: _Data,
    progress: Progress | None,
) -> dict[str, object]:
    needs: dict[str, object] = {"target": find_target(recipe.target)}
    if "ranges" in find_pass(step.name).needs:
        needs["ranges"] = _ranges(model, recipe, given, data, progress)
    return needs


def _ranges(
    model: ir.Model, recipe: Recipe, given: Given, data: _Data, progress: Progress | None
) -> Ranges:
    if given.ranges is not None:
        return given.ranges
    if recipe.ranges is not None:
        return read_ranges(Path(recipe.ranges))
    assert data.calibration is not None
    return collect_ranges(model, data.calibration, threads=recipe.threads, progress=progress)


# ---------------------------------------------------------------- the report's facts
def _path_of(source: object) -> str | None:
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else None


def _bytes_of(source: object, model: ir.Model) -> int | None:
    """Return the bytes of the file and of the weights files beside it, or None for an object."""
    if not isinstance(source, (str, os.PathLike)):
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
