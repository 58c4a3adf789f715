"""Findings about old forms of the file."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxcomp.graph import opset_version
from onnxcomp.lint.finding import Finding, Subject, count
from onnxcomp.model_io import AS_READ, AsRead

# Per-channel scales need this operator set.
INT8_OPSET = 13
OLDEST_IR_VERSION = 4


def old_opset(subject: Subject) -> Iterator[Finding]:
    """Yield an operator set without what quantization needs."""
    version = opset_version(subject.model)
    if version < INT8_OPSET:
        yield Finding(
            "old-opset",
            (),
            f"opset {version} has no per-channel scales, which INT8 weights need to be accurate",
            f"`--opset {INT8_OPSET}` or later converts it; `--int8` does it by itself",
        )


def old_ir_version(subject: Subject) -> Iterator[Finding]:
    """Yield a file format that lists every weight as an input."""
    read = _as_read(subject.model)
    if read is not None and read.ir_version < OLDEST_IR_VERSION:
        yield Finding(
            "old-ir-version",
            (),
            f"IR version {read.ir_version} wants every weight listed as an input",
            f"`onnxcomp optimize` writes IR version {OLDEST_IR_VERSION}",
        )


def initializers_as_inputs(subject: Subject) -> Iterator[Finding]:
    """Yield weights that a caller may replace, so that ONNX Runtime folds nothing into them."""
    read = _as_read(subject.model)
    if read is not None and read.listed_initializers:
        names = read.listed_initializers
        yield Finding(
            "initializers-as-inputs",
            names,
            f"{count(names, 'weight')} listed as inputs too, so not constant for ONNX Runtime",
            "`onnxcomp optimize` makes them constants",
        )


def _as_read(model: ir.Model) -> AsRead | None:
    found = model.meta.get(AS_READ)
    return found if isinstance(found, AsRead) else None
