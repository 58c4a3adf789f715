"""One function per verb of the command line; others than `optimize` have files of their own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

from onnxcomp.acceptance import Score
from onnxcomp.calibrating import Extras, calibrate_by
from onnxcomp.calibration.preprocess import Preprocess, make_preprocess
from onnxcomp.calibration.ranges import Ranges
from onnxcomp.calibration.samples import open_samples
from onnxcomp.comparing import Comparison, compare
from onnxcomp.container.packed import Packed, Unpacked
from onnxcomp.container.packing import pack
from onnxcomp.container.reading import load
from onnxcomp.container.unpacking import unpack
from onnxcomp.inputs import Given
from onnxcomp.inspecting import Summary, inspect
from onnxcomp.model_io import ModelSource, load_model
from onnxcomp.pipeline import run_lossless
from onnxcomp.recipe import Recipe, Step, check_recipe, with_low_rank, with_passes
from onnxcomp.recipe_file import load_recipe
from onnxcomp.run import Result, Say, run_recipe
from onnxcomp.runtime import input_specs
from onnxcomp.settings import (
    SCHEMES,
    make_exclude,
    make_outputs,
    make_prune,
    make_prune_channels,
    make_schemes,
    make_shapes,
    make_weights,
)
from onnxcomp.stages import Progress

__all__ = [
    "Comparison",
    "Packed",
    "Summary",
    "Unpacked",
    "calibrate",
    "compare",
    "inspect",
    "load",
    "make_recipe",
    "optimize",
    "pack",
    "unpack",
]


def make_recipe(
    recipe: str | os.PathLike[str] | Recipe | None = None,
    *,
    int8: bool = False,
    svd: float | None = None,
    schemes: Sequence[str] = (),
    prune: float | None = None,
    prune_pattern: str | None = None,
    prune_channels: float | None = None,
    weights: str | None = None,
    fp16: bool = False,
    select: Sequence[str] = (),
    skip: Sequence[str] = (),
    exclude: Sequence[str] = (),
    shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    outputs: Sequence[str] = (),
    preprocess: Preprocess | Mapping[str, object] | None = None,
    **settings: object,
) -> Recipe:
    """Return a recipe edited by options; a setting that is None stays as the recipe has it.

    `recipe` is a preset's name, a TOML file, or a `Recipe`; the default is `lossless`, with
    `int8` the preset `int8`. `prune` adds a step that zeroes this share of the weights,
    `prune_channels` one that removes this share of the MACs, `svd` those that write layers of low
    rank which keep this share of their output's energy; `weights` and `fp16` add those that store
    weights in fewer bits. Raises `RecipeError` or `UsageError` for what does not exist.
    """
    if isinstance(recipe, Recipe):
        found = recipe
    elif recipe is not None:
        found = load_recipe(os.fspath(recipe))
    else:
        found = load_recipe("int8" if int8 else "lossless")
    if int8 and not found.schemes:
        found = replace(found, schemes=SCHEMES)
    if schemes:
        found = replace(found, schemes=make_schemes(schemes))
    found = with_passes(found, select, skip)
    found = _with_step(found, "prune-channels", make_prune_channels(prune_channels))
    found = found if svd is None else with_low_rank(found, svd)
    found = _with_step(found, "prune-weights", make_prune(prune, prune_pattern))
    for name, options in make_weights(weights, fp16=fp16):
        found = _with_step(found, name, options)
    if exclude:
        found = replace(found, exclude=make_exclude(exclude))
    if shapes:
        found = replace(found, shapes={**found.shapes, **make_shapes(shapes)})
    if outputs:
        found = replace(found, outputs=make_outputs(outputs))
    if preprocess is not None:
        edited = make_preprocess(preprocess, start=found.preprocess)
        found = replace(found, preprocess=edited)
    found = replace(found, **{key: item for key, item in settings.items() if item is not None})  # type: ignore[arg-type]
    check_recipe(found)
    return found


def _with_step(recipe: Recipe, name: str, options: Mapping[str, object] | None) -> Recipe:
    """Return a recipe with a further step, if there are options for it."""
    if options is None:
        return recipe
    return replace(recipe, steps=(*recipe.steps, Step(name, options)))


def optimize(
    model: ModelSource,
    *,
    recipe: str | os.PathLike[str] | Recipe | None = None,
    int8: bool = False,
    svd: float | None = None,
    schemes: Sequence[str] = (),
    prune: float | None = None,
    prune_pattern: str | None = None,
    prune_channels: float | None = None,
    weights: str | None = None,
    fp16: bool = False,
    select: Sequence[str] = (),
    skip: Sequence[str] = (),
    exclude: Sequence[str] = (),
    shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    outputs: Sequence[str] = (),
    opset: int | None = None,
    calib: object = None,
    calib_method: str | None = None,
    calib_memory: str | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    executor: Executor | None = None,
    ranges: str | os.PathLike[str] | Ranges | None = None,
    samples: int | None = None,
    preprocess: Preprocess | Mapping[str, object] | None = None,
    seed: int | None = None,
    max_drop: float | None = None,
    eval: str | Score | None = None,  # noqa: A002  (the option's name)
    min_sqnr: float | None = None,
    min_speedup: float | None = None,
    min_int8_macs: float | None = None,
    verify: bool = True,
    target: str | None = None,
    threads: int | None = None,
    say: Say = lambda _: None,
    progress: Progress | None = None,
) -> Result:
    """Make a model smaller and faster, and prove that it still answers the same.

    `model` is a path, an `onnx.ModelProto` or an `onnx_ir.Model`, and is never changed. `calib`
    and `eval` take what their options take, or the object itself: samples in any form of
    `open_samples`, a function `score(predict) -> float`. `preprocess` edits how a recipe turns
    images into inputs: some settings of `Preprocess`, or one in place of them all.

    The interface changes only on request: `shapes` fixes input shapes by name (a dim None stays
    open), `outputs` keeps only these, `opset` converts the operator set. `schemes` are the int8
    candidates to try (all), `exclude` globs of nodes to leave float. `prune` is the share of the
    weights to zero, `prune_pattern` what goes together (see prune-weights), `prune_channels` the
    share of MACs to remove with whole channels; `svd` writes layers as smaller ones of low rank
    that keep this share of their output's energy. `weights` stores them in fewer bits: `int8`,
    `int4`, `codebook`, `fp16` or `bf16`; `fp16` is short for that. Where one of these breaks the
    budget, the most that was found to keep it is taken. What falls short of
    `min_speedup` or `min_int8_macs` is in the report's `problems`. Raises `OnnxcompError`.
    """
    found = make_recipe(
        recipe,
        int8=int8,
        svd=svd,
        schemes=schemes,
        prune=prune,
        prune_pattern=prune_pattern,
        prune_channels=prune_channels,
        weights=weights,
        fp16=fp16,
        select=select,
        skip=skip,
        exclude=exclude,
        shapes=shapes,
        outputs=outputs,
        opset=opset,
        calib=os.fspath(calib) if isinstance(calib, (str, os.PathLike)) else None,
        calib_method=calib_method,
        calib_memory=calib_memory,
        workers=workers,
        cluster=cluster,
        ranges=None if ranges is None or isinstance(ranges, Ranges) else os.fspath(ranges),
        samples=samples,
        preprocess=preprocess,
        seed=seed,
        max_drop=max_drop,
        eval=eval if isinstance(eval, str) else None,
        min_sqnr=min_sqnr,
        min_speedup=min_speedup,
        min_int8_macs=min_int8_macs,
        verify=None if verify else False,
        target=target,
        threads=threads,
    )
    given = Given(
        calib=None if isinstance(calib, (str, os.PathLike)) else calib,
        ranges=ranges if isinstance(ranges, Ranges) else None,
        executor=executor,
        score=None if isinstance(eval, str) else eval,
    )
    return run_recipe(model, found, given, say, progress)


def calibrate(
    model: ModelSource,
    *,
    calib: object = None,
    calib_method: str | None = None,
    calib_memory: str | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    executor: Executor | None = None,
    ranges: str | os.PathLike[str] | None = None,
    per_channel: Sequence[str] = (),
    plot: str | os.PathLike[str] | None = None,
    samples: int | None = None,
    preprocess: Preprocess | Mapping[str, object] | None = None,
    seed: int = 0,
    threads: int = 0,
    say: Say = lambda _: None,
    progress: Progress | None = None,
) -> Ranges:
    """Return the ranges of a model's values over all samples, for `optimize(..., ranges=...)`.

    They are taken on the model as the lossless recipe leaves it, which is what `int8` quantizes.
    `ranges` is a file to keep them in: it serves again while model and samples are the same, and
    a run that was interrupted goes on. `per_channel` are globs of values whose ranges along axis 1
    are wanted too, `plot` a folder for pictures of the histograms. `executor` counts in the place
    of this process: any of `concurrent.futures`, or one that a cluster gives.
    """
    recipe = make_recipe(
        calib_method=calib_method,
        calib_memory=calib_memory,
        workers=workers,
        cluster=cluster,
        ranges=None if ranges is None else os.fspath(ranges),
        threads=threads,
    )
    loaded = load_model(model)
    opened = open_samples(
        "random" if calib is None else calib,
        input_specs(loaded),
        limit=samples,
        seed=seed,
        model=loaded,
        preprocess=preprocess,
    )
    if opened.note:
        say(opened.note)
    prepared, _ = run_lossless(loaded, load_recipe("lossless").steps, None, say)
    extras = Extras(per_channel, None if plot is None else Path(plot), executor)
    return calibrate_by(recipe, loaded, prepared, opened, extras, say, progress)
