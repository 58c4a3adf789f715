"""What a run compares on, calibrates on and accepts on: random feeds, the user's data, a budget."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass

import onnx_ir as ir

from onnxcomp.acceptance import (
    DEFAULT_EXPECTED_DROP,
    DEFAULT_MAX_DROP,
    DEFAULT_MIN_SQNR,
    Budget,
    Score,
    top1_of,
    user_score,
)
from onnxcomp.calibration.ranges import Ranges
from onnxcomp.calibration.samples import Samples, open_samples, split
from onnxcomp.calibration.synthetic import first_runs
from onnxcomp.errors import ModelError, UsageError
from onnxcomp.graph import Array
from onnxcomp.recipe import Recipe
from onnxcomp.reference import Reference, make_reference
from onnxcomp.runtime import INLINE_LIMIT, Session, input_specs, weight_bytes
from onnxcomp.targets import detect, find_target

# Every result is compared on this many random samples (one where each run reads gigabytes), and
# on this many of the user's.
RANDOM_FEEDS = 2
REAL_FEEDS = 2

Say = Callable[[str], None]


@dataclass(frozen=True)
class Given:
    """Python objects that stand for what a recipe names: data, ranges, metric."""

    calib: object = None
    ranges: Ranges | None = None
    executor: Executor | None = None
    score: Score | None = None


NOTHING_GIVEN = Given()


@dataclass(frozen=True)
class Inputs:
    """The data of a run; `pending` yields the original's answers, unless nothing is verified."""

    real: tuple[Mapping[str, Array], ...]
    calibration: Samples | None
    budget: Budget | None
    pending: Future[Reference] | None = None

    def reference(self) -> Reference | None:
        """Return the answers of the original to what every result is compared on.

        Raises `ModelError` when ONNX Runtime cannot load the original.
        """
        return self.pending.result() if self.pending is not None else None

    @property
    def feeds(self) -> tuple[Mapping[str, Array], ...]:
        """What every result is compared on."""
        reference = self.reference()
        return self.real if reference is None else reference.feeds

    @property
    def first_feeds(self) -> Mapping[str, Array] | None:
        """What the model is run on where its sizes are of interest; None without any."""
        return self.feeds[0] if self.feeds else None


def open_inputs(
    model: ir.Model, recipe: Recipe, given: Given, say: Say, file: str | None = None
) -> Inputs:
    """Open the data of a recipe, and begin to run the original beside what comes next.

    `file` holds the very model, where there is one: then ONNX Runtime reads it itself.
    """
    samples = _samples(model, recipe, given, say)
    calibration, held_out = split(samples) if samples is not None else (None, None)
    budget = _budget(recipe, given, held_out) if recipe.is_lossy and held_out else None
    real = tuple(itertools.islice(held_out, REAL_FEEDS)) if held_out is not None else ()
    if not recipe.verify:
        return Inputs(real, calibration, budget)
    worker = ThreadPoolExecutor(1)
    pending = worker.submit(_run_original, model, file, real, recipe.seed, say)
    worker.shutdown(wait=False)
    return Inputs(real, calibration, budget, pending)


def _run_original(
    model: ir.Model,
    file: str | None,
    real: Sequence[Mapping[str, Array]],
    seed: int,
    say: Say,
) -> Reference:
    session = _load_original(model, file)
    answers = [_answer(session, index, feeds) for index, feeds in enumerate(real)]
    try:
        runs = first_runs(model, _count(model), seed, session)
    except ModelError as error:
        if not real:
            _warn(say, f"answers were not compared: {error}")
        return make_reference(model, real, session, answers)
    return make_reference(model, (*real, *runs.feeds), session, (*answers, *runs.answers))


def _answer(session: Session, index: int, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
    try:
        return session.run(feeds)
    except ModelError as error:
        where = f"the model as it was given, on sample {index} of those held out"
        raise ModelError(f"{error} ({where}); check the data") from error


def _count(model: ir.Model) -> int:
    """Return how many random feeds to compare on: a batch of an open size holds two samples."""
    batched = any(spec.shape and not isinstance(spec.shape[0], int) for spec in input_specs(model))
    return 1 if batched or weight_bytes(model) >= INLINE_LIMIT else RANDOM_FEEDS


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
    if spec is None and recipe.preprocess is not None and recipe.preprocess.to_dict():
        raise UsageError("preprocessing is for images, and there are none: pass --calib DIR")
    if spec is None and not recipe.is_lossy:
        return None
    if spec is None:
        spec = "random"
    samples = open_samples(
        spec,
        input_specs(model),
        limit=recipe.samples,
        seed=recipe.seed,
        model=model,
        preprocess=recipe.preprocess,
        keep=recipe.is_lossy,
    )
    if samples.note:
        say(samples.note)
    return samples


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
    min_sqnr, expected = recipe.min_sqnr, None
    if min_sqnr is None and max_drop is None:
        min_sqnr, expected = DEFAULT_MIN_SQNR, DEFAULT_EXPECTED_DROP
    here = recipe.never_slower and recipe.target in ("auto", detect())
    return Budget(
        held_out,
        score,
        name,
        max_drop,
        min_sqnr,
        expected,
        timed=here,
        threads=1 if recipe.threads is None else recipe.threads,
        signed=find_target(recipe.target).signed,
    )


def _warn(say: Say, text: str) -> None:
    say(f"warning: {text}")
