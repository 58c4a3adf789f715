"""Calibration as a recipe asks for it: by which method, with what effort, kept in which file."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

import onnx_ir as ir

from onnxcomp.calibration.caching import cached_ranges
from onnxcomp.calibration.collect import Effort
from onnxcomp.calibration.crews import open_crew
from onnxcomp.calibration.find import collect_ranges
from onnxcomp.calibration.ranges import Ranges
from onnxcomp.calibration.samples import Samples
from onnxcomp.recipe import Recipe, bytes_of
from onnxcomp.stages import Progress, stage

Say = Callable[[str], None]


def calibrate_by(
    recipe: Recipe,
    model: ir.Model,
    samples: Samples,
    executor: Executor | None = None,
    say: Say = lambda _: None,
    progress: Progress | None = None,
) -> Ranges:
    """Return the ranges of a model's values over samples, as a recipe's settings have it.

    Where the recipe names a ranges file, that serves if it is of this model and these samples, and
    is written if not. Values that held NaN are said.
    """
    stage("calibrating")
    memory = None if recipe.calib_memory is None else bytes_of(recipe.calib_memory)
    with open_crew(recipe.workers, recipe.cluster, executor) as crew:
        effort = Effort(recipe.threads or 0, crew, memory)
        if recipe.ranges is not None:
            path, method = Path(recipe.ranges), recipe.calib_method
            found = cached_ranges(path, model, samples, effort, method, say, progress)
        else:
            found = collect_ranges(
                model, samples, effort, method=recipe.calib_method, progress=progress
            )
    for name, count in found.nan.items():
        say(f"warning: {name} held {count} NaN, which were left out of its range")
    return found
