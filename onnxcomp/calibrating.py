"""Calibration as a recipe asks for it: by which method, with what effort, kept in which file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from onnxcomp.calibration.caching import cached_ranges
from onnxcomp.calibration.collect import Effort, collect_statistics
from onnxcomp.calibration.consumers import consumers_of
from onnxcomp.calibration.crews import open_crew
from onnxcomp.calibration.data_free import completed, estimate_ranges
from onnxcomp.calibration.find import find_ranges
from onnxcomp.calibration.ranges import Ranges
from onnxcomp.calibration.samples import Samples
from onnxcomp.calibration.statistics import Statistics
from onnxcomp.recipe import Recipe
from onnxcomp.settings import bytes_of
from onnxcomp.stages import Progress, stage

Say = Callable[[str], None]


@dataclass(frozen=True)
class Extras:
    """What a calibration may give besides the ranges of values.

    `per_channel` are globs of values whose ranges along axis 1 are wanted too, `plot` a folder for
    pictures of the histograms; `executor` counts in the place of this process.
    """

    per_channel: Sequence[str] = ()
    plot: Path | None = None
    executor: Executor | None = None


NOTHING_MORE = Extras()


def calibrate_by(
    recipe: Recipe,
    original: ir.Model,
    model: ir.Model,
    samples: Samples,
    extras: Extras = NOTHING_MORE,
    say: Say = lambda _: None,
    progress: Progress | None = None,
) -> Ranges:
    """Return the ranges of a model's values over samples, as a recipe's settings have it.

    `original` is the model before any pass. Where the samples are random, what its batch
    normalizations have learnt goes before what these show (see `estimate_ranges`).
    Where the recipe names a ranges file, that serves if it is of this model and these samples, and
    is written if not. Values that held NaN are said.
    """
    memory = None if recipe.calib_memory is None else bytes_of(recipe.calib_memory)

    def find(partial: Path | None) -> Ranges:
        stage("calibrating")
        with open_crew(recipe.workers, recipe.cluster, extras.executor) as crew:
            effort = Effort(recipe.threads or 0, crew, memory, partial)
            statistics = collect_statistics(
                model, samples, effort, per_channel=extras.per_channel, progress=progress
            )
        if extras.plot is not None:
            _plot(model, statistics, extras.plot, say, progress)
        found = find_ranges(model, statistics, recipe.calib_method, samples.source)
        return completed(estimate_ranges(original, model), found) if samples.synthetic else found

    if recipe.ranges is None:
        found = find(None)
    else:
        again = bool(extras.per_channel or extras.plot)
        path = Path(recipe.ranges)
        found = cached_ranges(path, model, samples, recipe.calib_method, find, say, again=again)
    if samples.synthetic:
        say(f"warning: no calibration data: {_origins(found)}; pass --calib")
    for name, count in found.nan.items():
        say(f"warning: {name} held {count} NaN, which were left out of its range")
    return found


def _origins(found: Ranges) -> str:
    random = len(found.values) - len(found.estimated)
    if not found.estimated:
        return "ranges come from RANDOM samples, so accuracy on real data is likely to be lost"
    return (
        f"{len(found.estimated)} ranges come from batch normalization, {random} from RANDOM samples"
    )


def _plot(
    model: ir.Model, statistics: Statistics, folder: Path, say: Say, progress: Progress | None
) -> None:
    from onnxcomp.calibration.plots import plot_statistics

    stage("plotting")
    count = plot_statistics(statistics, folder, consumers_of(model), progress or (lambda *_: None))
    say(f"{folder / 'index.html'} shows {count} histograms")
