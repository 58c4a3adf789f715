"""One function per verb of the command line."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxcomp.acceptance import Score
from onnxcomp.calibrating import Extras, calibrate_by
from onnxcomp.calibration.checks import is_fixed
from onnxcomp.calibration.preprocess import Preprocess, make_preprocess
from onnxcomp.calibration.ranges import Ranges
from onnxcomp.calibration.samples import Samples, open_samples
from onnxcomp.calibration.synthetic import first_runs, random_feeds, runnable_feeds
from onnxcomp.cost import ModelCost, concrete_shapes, one_sample, total_cost
from onnxcomp.errors import ModelError, UsageError
from onnxcomp.graph import Array, opset_version
from onnxcomp.inputs import Given
from onnxcomp.interface import fix_shapes
from onnxcomp.latency import measure_in_turns
from onnxcomp.layers import Layer, list_layers
from onnxcomp.lint.finding import Finding
from onnxcomp.lint.rules import lint
from onnxcomp.model_io import AS_READ, AsRead, external_tensors, load_model, model_bytes
from onnxcomp.parity import Parity
from onnxcomp.pipeline import run_lossless
from onnxcomp.recipe import Recipe, check_recipe, with_passes
from onnxcomp.recipe_file import load_recipe
from onnxcomp.report import Latency
from onnxcomp.run import Result, Say, run_recipe
from onnxcomp.runtime import InputSpec, Session, input_specs, value_spec
from onnxcomp.settings import SCHEMES, make_exclude, make_outputs, make_schemes, make_shapes
from onnxcomp.stages import Progress, stage
from onnxcomp.targets import find_target
from onnxcomp.verify import compare_sessions

if TYPE_CHECKING:
    from typing import TypeAlias

    import onnx

ModelSource: TypeAlias = "str | os.PathLike[str] | onnx.ModelProto | ir.Model"


def make_recipe(
    recipe: str | os.PathLike[str] | Recipe | None = None,
    *,
    int8: bool = False,
    schemes: Sequence[str] = (),
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
    `int8` the preset `int8`. Raises `RecipeError` or `UsageError` for what does not exist.
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


def optimize(
    model: ModelSource,
    *,
    recipe: str | os.PathLike[str] | Recipe | None = None,
    int8: bool = False,
    schemes: Sequence[str] = (),
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
    candidates to try (all), `exclude` globs of nodes to leave float. What falls short of
    `min_speedup` or `min_int8_macs` is in the report's `problems`. Raises `OnnxcompError`.
    """
    found = make_recipe(
        recipe,
        int8=int8,
        schemes=schemes,
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


@dataclass(frozen=True)
class Comparison:
    """Two models side by side; `problems` says how they cannot be compared or differ too much."""

    parity: Parity
    bytes: tuple[int, int]
    latency: Latency | None
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON data."""
        outputs = {name: output.to_dict() for name, output in self.parity.outputs.items()}
        return {
            "schema": 1,
            "bytes": list(self.bytes),
            "parity": {"passed": not self.problems, "outputs": outputs},
            "latency": None if self.latency is None else self.latency.to_dict(),
            "problems": list(self.problems),
        }


def compare(
    first: ModelSource,
    second: ModelSource,
    *,
    calib: object = None,
    samples: int | None = None,
    preprocess: Preprocess | Mapping[str, object] | None = None,
    seed: int = 0,
    min_sqnr: float | None = None,
    bench: bool = False,
    threads: int = 1,
) -> Comparison:
    """Return how near the second model's answers are to the first's, and what both cost.

    Outputs are paired by position when their names differ. Without `calib`, seeded random feeds
    are used. `min_sqnr` (dB, worst output) makes nearness a requirement; `bench` adds latency.
    """
    stage("loading")
    before, after = load_model(first), load_model(second)
    stage("comparing")
    feeds: Samples | Sequence[Mapping[str, Array]]
    if calib is None and not preprocess:
        feeds = runnable_feeds(before, samples or 4, seed)
    else:
        feeds = open_samples(
            "random" if calib is None else calib,
            input_specs(before),
            limit=samples,
            seed=seed,
            model=before,
            preprocess=preprocess,
        )
    _rename_outputs(before, after)
    parity = compare_sessions(Session(before), Session(after, optimize=True), feeds)
    problems = [f"{name}: {out.broken}" for name, out in parity.outputs.items() if out.broken]
    if min_sqnr is not None and parity.sqnr_db < min_sqnr:
        problems.append(f"SQNR {parity.sqnr_db:.1f} dB is below {min_sqnr:g} dB")
    latency = None
    if bench:
        stage("timing")
        sessions = [Session(item, optimize=True, threads=threads) for item in (before, after)]
        latency = measure_in_turns(sessions[0], sessions[1], list(itertools.islice(feeds, 4)))
    return Comparison(parity, (model_bytes(before), model_bytes(after)), latency, tuple(problems))


def _rename_outputs(before: ir.Model, after: ir.Model) -> None:
    """Give the second model the first one's names of inputs and outputs, pair by pair."""
    for kind in ("inputs", "outputs"):
        old, new = getattr(before.graph, kind), getattr(after.graph, kind)
        if len(old) != len(new):
            raise UsageError(
                f"the models have {len(old)} and {len(new)} {kind}; they cannot be compared"
            )
        if {value.name for value in old} != {value.name for value in new}:
            for index, value in enumerate(new):
                value.name = f"onnxcomp_{kind}_{index}"
            for mine, other in zip(old, new, strict=True):
                other.name = mine.name


@dataclass(frozen=True)
class Summary:
    """What a model is and costs; `counted_at` are the input shapes that its MACs are for."""

    path: str | None
    inputs: tuple[InputSpec, ...]
    outputs: tuple[InputSpec, ...]
    counted_at: Mapping[str, tuple[int, ...]]
    opset: int
    ir_version: int
    producer: str
    cost: ModelCost
    layers: tuple[Layer, ...]
    lint: tuple[Finding, ...]
    metadata: Mapping[str, str]

    def to_dict(self, *, layers: bool = True) -> dict[str, Any]:
        """Return the summary as JSON data, with or without the list of layers."""
        return {
            "schema": 1,
            "path": self.path,
            "opset": self.opset,
            "ir_version": self.ir_version,
            "producer": self.producer,
            "inputs": [_spec_dict(spec) for spec in self.inputs],
            "outputs": [_spec_dict(spec) for spec in self.outputs],
            "nodes": self.cost.nodes,
            "bytes": self.cost.bytes,
            "params": self.cost.params,
            "macs": self.cost.macs,
            "macs_at": {name: list(shape) for name, shape in self.counted_at.items()},
            "ops": dict(self.cost.ops),
            **({"layers": [layer.to_dict() for layer in self.layers]} if layers else {}),
            "lint": [finding.to_dict() for finding in self.lint],
            "metadata": dict(self.metadata),
        }


def _spec_dict(spec: InputSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "type": None if spec.dtype is None else str(spec.dtype),
        "shape": None if spec.shape is None else list(spec.shape),
    }


def inspect(
    model: ModelSource,
    *,
    shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    target: str = "auto",
) -> Summary:
    """Return what a model is: inputs, outputs, operators, layers, MACs, bytes and findings.

    MACs are counted at the declared shapes, or those of `shapes`; open dims get the first size at
    which the model runs. Findings about speed are for `target`.
    """
    machine = find_target(target)
    path = os.fspath(model) if isinstance(model, (str, os.PathLike)) else None
    stage("loading")
    loaded = load_model(model)
    stage("counting")
    subject = fix_shapes(loaded, make_shapes(shapes)) if shapes else loaded
    feeds = _any_feeds(subject, None if shapes else path)
    concrete = concrete_shapes(subject, feeds)
    layers = list_layers(subject, concrete)
    external = any(True for _ in external_tensors(loaded))
    size = None if path is None or external else Path(path).stat().st_size
    read = loaded.meta.get(AS_READ)
    return Summary(
        path=path,
        inputs=tuple(input_specs(subject)),
        outputs=tuple(value_spec(value) for value in subject.graph.outputs),
        counted_at={} if feeds is None else _shapes(one_sample(subject, feeds)),
        opset=opset_version(loaded),
        ir_version=read.ir_version if isinstance(read, AsRead) else loaded.ir_version or 0,
        producer=" ".join(filter(None, [loaded.producer_name, loaded.producer_version])),
        cost=total_cost(loaded, sum(layer.macs for layer in layers), size),
        layers=layers,
        lint=lint(subject, concrete, layers, machine),
        metadata=dict(loaded.metadata_props),
    )


def _any_feeds(model: ir.Model, file: str | None) -> Mapping[str, Array] | None:
    """Return feeds for their shapes; a model without open dims need not run for it.

    `file` holds the very model, where there is one: then ONNX Runtime reads it itself.
    """
    if all(is_fixed(dim) for spec in input_specs(model) for dim in spec.shape or (None,)):
        return next(random_feeds(model, 1))
    session = None
    if file is not None:
        with contextlib.suppress(ModelError):  # such as weights behind symbolic links
            session = Session(file)
    try:
        return first_runs(model, 1, session=session).feeds[0]
    except ModelError:
        return None


def _shapes(feeds: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    return {name: data.shape for name, data in feeds.items()}
