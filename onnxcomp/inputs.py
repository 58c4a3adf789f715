"""What a run compares on, calibrates on and accepts on: random feeds, the user's data, a budget."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnxcomp.acceptance import (
    DEFAULT_MAX_DROP,
    DEFAULT_MIN_SQNR,
    Budget,
    Score,
    top1_of,
    user_score,
)
from onnxcomp.calibration.ranges import Ranges
from onnxcomp.calibration.samples import Samples, open_samples, split
from onnxcomp.calibration.synthetic import runnable_feeds
from onnxcomp.errors import ModelError, UsageError
from onnxcomp.graph import Array
from onnxcomp.recipe import Recipe
from onnxcomp.runtime import INLINE_LIMIT, Session, input_specs, weight_bytes
from onnxcomp.targets import detect
from onnxcomp.verify import Reference, make_reference

# Every result is compared on this many random feeds (one where each run reads gigabytes), and on
# this many of the user's samples.
RANDOM_FEEDS = 2
REAL_FEEDS = 2

Say = Callable[[str], None]


@dataclass(frozen=True)
class Given:
    """Python objects that stand for what a recipe names: data, ranges, metric."""

    calib: object = None
    ranges: Ranges | None = None
    score: Score | None = None


NOTHING_GIVEN = Given()


@dataclass(frozen=True)
class Inputs:
    """The data of a run; `reference` holds the original's answers, unless nothing is verified."""

    feeds: tuple[Mapping[str, Array], ...]
    calibration: Samples | None
    budget: Budget | None
    reference: Reference | None = None


def open_inputs(
    model: ir.Model, recipe: Recipe, given: Given, say: Say, file: str | None = None
) -> Inputs:
    """Open the data of a recipe and run the original on what every result is compared on.

    `file` holds the very model, where there is one: then ONNX Runtime reads it itself. Raises
    `ModelError` when it cannot load the model.
    """
    samples = _samples(model, recipe, given, say)
    calibration, held_out = split(samples) if samples is not None else (None, None)
    budget = _budget(recipe, given, held_out) if recipe.is_lossy and held_out else None
    real = list(itertools.islice(held_out, REAL_FEEDS)) if held_out is not None else []
    if not recipe.verify:
        return Inputs(tuple(real), calibration, budget)
    session = _load_original(model, file)
    try:
        count = 1 if weight_bytes(model) >= INLINE_LIMIT else RANDOM_FEEDS
        random = runnable_feeds(model, count, recipe.seed, session)
    except ModelError as error:
        if not real:
            _warn(say, f"answers were not compared: {error}")
        random = []
    feeds = (*real, *random)
    return Inputs(feeds, calibration, budget, make_reference(model, feeds, session))


def _load_original(model: ir.Model, file: str | None) -> Session:
    if file is not None:
        try:
            return Session(file)
        except ModelError:
            pass  # such as weights behind symbolic links, which it refuses
    try:
        return Session(model)
    except ModelError as error:
        raise ModelError(f"{error}; --no-verify optimizes it unchecked") from error


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


def _warn(say: Say, text: str) -> None:
    say(f"warning: {text}")
