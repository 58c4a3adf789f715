"""Quantizes a model of a test and checks what every result promises."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir

from case_pages import parse
from onnxcomp.calibration.ranges import Range, Ranges
from onnxcomp.calibration.synthetic import runnable_feeds
from onnxcomp.edits import sweep
from onnxcomp.int8_coverage import optimized_graph
from onnxcomp.parity import compare_outputs
from onnxcomp.registry import apply, find_pass
from onnxcomp.runtime import Session
from onnxcomp.targets import TARGETS, detect

PASS = find_pass("quantize-static")
FLOAT_KERNELS = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Add", "Mul"}
FLOAT_KERNELS |= {"Concat", "Relu", "Clip", "LeakyRelu", "Sigmoid", "AveragePool"}


def ranges_of(model: ir.Model, samples: list[dict[str, np.ndarray]]) -> Ranges:
    taps = [out.name for node in model.graph for out in node.outputs if out.name]
    session = Session(model, taps=taps)
    seen: dict[str, list[float]] = {}
    for feeds in samples:
        for name, data in {**feeds, **session.run(feeds)}.items():
            if data.dtype.kind == "f" and data.size:
                seen.setdefault(name, []).extend((float(data.min()), float(data.max())))
    values = {name: Range(min(ends), max(ends)) for name, ends in seen.items()}
    return Ranges(values, "minmax", len(samples), "test")


def quantized(
    text: str | ir.Model,
    *,
    opset: int = 17,
    target: str = "x86",
    least: float = 18.0,
    **options: object,
) -> tuple[ir.Model, list[str]]:
    """Quantize, check what every result promises, and return it with the reasons that it left."""
    before = parse(text, opset) if isinstance(text, str) else text
    samples = runnable_feeds(before, count=4)
    needs = {"ranges": ranges_of(before, samples), "target": TARGETS[target]}
    after = before.clone()
    outcome = apply(PASS, after, options, needs)
    sweep(after)
    if outcome.sites:
        onnx.checker.check_model(ir.to_proto(after), full_check=True)
    saturates = target == "x86-vnni" and detect() == "x86"
    for optimize in (False,) if saturates else (False, True):
        session = Session(after, optimize=optimize)
        for feeds in samples:
            parity = compare_outputs(Session(before).run(feeds), session.run(feeds))
            assert not [output.broken for output in parity.outputs.values() if output.broken]
            assert parity.sqnr_db > least, (optimize, parity)
    second = after.clone()
    assert apply(PASS, second, options, needs).sites == 0
    assert outcome.sites or ir.to_proto(after) == ir.to_proto(before)
    return after, [f"{left.node}: {left.reason}" for left in outcome.left]


def kernels(model: ir.Model) -> Counter[str]:
    """Count the operators of the graph that ONNX Runtime really runs."""
    return Counter(node.op_type for node in optimized_graph(model))


def float_kernels(model: ir.Model) -> set[str]:
    return set(kernels(model)) & FLOAT_KERNELS
