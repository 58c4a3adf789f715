"""Ranges that are found once: a file of them serves as long as model, data and method stay."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from onnxcomp.calibration.identity import digest_of_model
from onnxcomp.calibration.ranges import Ranges, read_ranges
from onnxcomp.calibration.samples import Samples
from onnxcomp.calibration.statistics import DIGESTS, digest_of
from onnxcomp.calibration.tensorrt_cache import PREFIX, from_cache
from onnxcomp.errors import SamplesError
from onnxcomp.model_io import write_text

Say = Callable[[str], None]


def cached_ranges(
    path: Path,
    model: ir.Model,
    samples: Samples,
    method: str,
    find: Callable[[Path], Ranges],
    say: Say,
    *,
    again: bool = False,
) -> Ranges:
    """Return the ranges in a file if they are of this model, data and method; else find and write.

    `find` gets the file that an interrupted run is kept in, `<file>.partial`. `again` finds them in
    any case.
    """
    known = None if again else _read(path)
    if known is not None and _fits(known, model, samples, method):
        say(f"{path} is of this model and these samples; nothing to calibrate")
        return known
    found = find(path.with_name(f"{path.name}.partial"))
    write_text(path, found.to_json())
    return found


def read_any(path: Path) -> Ranges:
    """Return the ranges in a ranges file or in a calibration cache of TensorRT."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = path.read_text(encoding="utf-8")
        if text.startswith(PREFIX):
            return from_cache(path, text)
    return read_ranges(path)


def ranges_in(path: Path, model: ir.Model, say: Say) -> Ranges:
    """Return the ranges in a file, and warn when they are of another model.

    Raises `SamplesError` when it is no ranges file, or holds nothing of this model.
    """
    found = read_any(path)
    if not found.model or found.model == digest_of_model(model):
        return found
    names = {value.name for value in model.graph.inputs}
    names |= {value.name for node in model.graph for value in node.outputs}
    known = sum(1 for name in found.values if name in names)
    if not known:
        raise SamplesError(
            f"{path} has no range of a value of this model; run `onnxcomp calibrate` on it"
        )
    say(
        f"warning: {path} was made for another model, or by another version: {known} of its "
        f"{len(found.values)} ranges are of values of this one"
    )
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
