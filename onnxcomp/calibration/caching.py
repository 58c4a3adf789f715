"""Ranges that are found once: a file of them serves as long as model, data and method stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from onnxcomp.calibration.collect import Effort
from onnxcomp.calibration.find import collect_ranges
from onnxcomp.calibration.identity import digest_of_model
from onnxcomp.calibration.ranges import Ranges, read_ranges
from onnxcomp.calibration.samples import Samples
from onnxcomp.calibration.statistics import DIGESTS, digest_of
from onnxcomp.errors import SamplesError
from onnxcomp.model_io import write_text
from onnxcomp.stages import Progress, stage

Say = Callable[[str], None]


def cached_ranges(
    path: Path,
    model: ir.Model,
    samples: Samples,
    effort: Effort,
    method: str,
    say: Say,
    progress: Progress | None = None,
) -> Ranges:
    """Return the ranges in a file of this model, data and method, or find and write them.

    A run that is interrupted leaves `<file>.partial`, from which the next one goes on.
    """
    known = _read(path)
    if known is not None and _fits(known, model, samples, method):
        say(f"{path} is of this model and these samples; nothing to calibrate")
        return known
    stage("calibrating")
    effort = replace(effort, partial=path.with_name(f"{path.name}.partial"))
    found = collect_ranges(model, samples, effort, method=method, progress=progress)
    write_text(path, found.to_json())
    return found


def _read(path: Path) -> Ranges | None:
    try:
        return read_ranges(path) if path.exists() else None
    except SamplesError:  # written anew
        return None


def _fits(known: Ranges, model: ir.Model, samples: Samples, method: str) -> bool:
    if known.method != method or not known.model or known.model != digest_of_model(model):
        return False
    return known.data == f"{sum(map(digest_of, samples)) % DIGESTS:032x}"
