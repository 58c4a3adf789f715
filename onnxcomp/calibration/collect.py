"""The range of every float value of a model, over samples that stream through it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.ranges import Range, Ranges
from onnxcomp.calibration.samples import Samples
from onnxcomp.errors import ModelError
from onnxcomp.graph import Array, is_op
from onnxcomp.runtime import Feeds, Session

# What ONNX Runtime returns as NumPy floats; its CPU provider has next to no bfloat16 kernels.
FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})

# Ranges known from the mathematics: no sample needs to reach them, and none can leave them.
KNOWN = {
    "Softmax": Range(0.0, 1.0),
    "Sigmoid": Range(0.0, 1.0),
    "HardSigmoid": Range(0.0, 1.0),
    "Tanh": Range(-1.0, 1.0),
}

# From this share of the greatest number of a type on, a value stands for infinity: exporters
# write masks as the least finite number, and adding scores to it leaves it there.
NEARLY = 0.99


def collect_ranges(
    model: ir.Model,
    samples: Samples,
    *,
    threads: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Ranges:
    """Return the least and greatest finite value of each float value of the main graph.

    Covered are its inputs and what its nodes make, but constants and the insides of subgraphs;
    NaN and infinities (and the greatest numbers of a type, which masks write for them) are left
    out and counted. Softmax, Sigmoid, HardSigmoid and Tanh get the range that they have by
    definition. Only the ranges are kept in memory; the model runs without ONNX Runtime's
    optimizations on `threads` threads (0: all cores). `progress` gets the number of samples done.
    Raises `ModelError` when the model does not load, or does not run on a sample.
    """
    seen: dict[str, Range] = {}
    nonfinite: Counter[str] = Counter()
    session: Session | None = None
    done = 0
    for feeds in samples:
        try:
            if session is None:
                session, results = _first_run(model, feeds, threads)
            else:
                results = session.run(feeds)
        except ModelError as error:
            raise ModelError(f"{error} (on {samples.source}, sample {done})") from error
        for name, data in (*feeds.items(), *results.items()):
            _observe(name, data, seen, nonfinite)
        del results, data
        done += 1
        if progress is not None:
            progress(done)
    order = [value.name or "" for value in model.graph.inputs] + float_values(model)
    known = _known_ranges(model)
    return Ranges(
        {name: known.get(name, seen[name]) for name in order if name in seen},
        "minmax",
        done,
        samples.source,
        {name: nonfinite[name] for name in order if name in nonfinite},
    )


def float_values(model: ir.Model, *, typed: bool = False) -> list[str]:
    """Name what the main graph's nodes make, in order: floats and, unless `typed`, the unknown."""
    return [
        output.name
        for node in model.graph
        for output in node.outputs
        if output.name and not is_op(node, "Constant") and _may_be_float(output, typed)
    ]


def _may_be_float(value: ir.Value, typed: bool) -> bool:
    if value.type is None or value.type.dtype == ir.DataType.UNDEFINED:
        return not typed
    return isinstance(value.type, ir.TensorType) and value.type.dtype in FLOATS


def _first_run(model: ir.Model, feeds: Feeds, threads: int) -> tuple[Session, dict[str, Array]]:
    """Load and run the model with all taps, or, where ONNX Runtime refuses, with the typed ones."""
    try:
        session = Session(model, threads=threads, taps=float_values(model))
        return session, session.run(feeds)
    except ModelError:
        session = Session(model, threads=threads, taps=float_values(model, typed=True))
        return session, session.run(feeds)


def _known_ranges(model: ir.Model) -> dict[str, Range]:
    nodes = (node for node in model.graph if is_op(node, *KNOWN))
    return {node.outputs[0].name or "": KNOWN[node.op_type] for node in nodes}


def _observe(name: str, data: object, seen: dict[str, Range], nonfinite: Counter[str]) -> None:
    """Widen the range of a value by one array; lists (sequences) and integers are passed over."""
    if not isinstance(data, np.ndarray) or data.dtype.kind != "f":
        return
    found, limit = _extremes(data), NEARLY * float(np.finfo(data.dtype).max)
    if found is not None and not (-limit < found[0] and found[1] < limit):
        finite = data[np.abs(data) < limit]
        nonfinite[name] += data.size - finite.size
        found = _extremes(finite)
    if found is None:
        return
    lo, hi = found
    if name in seen:
        lo, hi = min(lo, seen[name].lo), max(hi, seen[name].hi)
    seen[name] = Range(lo, hi)


def _extremes(data: Array) -> tuple[float, float] | None:
    if data.size == 0:
        return None
    with np.errstate(invalid="ignore"):  # NaN
        return float(data.min()) + 0.0, float(data.max()) + 0.0  # no -0.0, which varies
