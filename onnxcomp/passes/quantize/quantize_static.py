"""Int8 activations and weights from calibrated ranges, as QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import onnx_ir as ir

from onnxcomp.calibration.ranges import Range, Ranges
from onnxcomp.errors import UsageError
from onnxcomp.exclusion import is_excluded, read_globs
from onnxcomp.graph import is_op, opset_version
from onnxcomp.opset import raise_opset
from onnxcomp.passes.quantize._editor import Editor
from onnxcomp.passes.quantize._edits import apply_plan, open_hard_swish
from onnxcomp.passes.quantize._eligibility import MAC_OPS
from onnxcomp.passes.quantize._explicit import make_explicit_plan
from onnxcomp.passes.quantize._facts import Facts
from onnxcomp.passes.quantize._naming import used_names
from onnxcomp.passes.quantize._placement import Plan, inner_mac_nodes, make_plan
from onnxcomp.registry import Effect, leave, register
from onnxcomp.shapes import infer_shapes
from onnxcomp.targets import Target

# DequantizeLinear exists from 10, its axis, so one scale per channel, from 13.
FIRST_OPSET = 10
PER_CHANNEL_OPSET = 13


@register(Effect.LOSSY)
def quantize_static(
    model: ir.Model,
    ranges: Ranges,
    target: Target,
    *,
    exclude: str = "",
    ops: str = "Conv,Gemm,MatMul",
    overrides: dict[str, list[float]] | None = None,
    per_channel: bool = True,
) -> int:
    """Compute convolutions, matrix products and what lies between them in 8-bit integers.

    Activations: scale = (hi - lo) / 255, zero_point = round(-lo / scale), zero always in the range.
    Weights: int8, scale = max |w| / 127, per output channel. Bias: int32, scale = s_x * s_w. A
    QuantizeLinear and DequantizeLinear pair stands behind every value, which is the form that ONNX
    Runtime's CPU provider runs in integer kernels. Relu and Clip become the saturation of the
    output before them, HardSigmoid, sums and products with one number a part of weights or
    scales. Where x * HardSigmoid(x) is left, as in a hard swish, the gate is the bytes of x
    written on the grid 6/254 and read on 1/254, a table look-up. Opset 13 for scales per channel:
    an older model is raised to it.

    What differs by target: `x86-vnni` uint8 activations; `x86` and `portable` the same, with wider
    scales for those channels in which two weights could overflow the 16 bits in which pairs of
    products are added (scale >= (|w0| + |w1|) / 128); `arm64` int8 activations; `tensorrt` int8
    with zero_point 0 and scale = max |x| / 127 for what weighted layers read and what is added to a
    convolution's result, float weights behind such pairs, float biases, nothing behind weighted
    layers. Sources: Jacob et al., 2018 (arXiv 1712.05877); ONNX Runtime's QDQ selectors;
    TensorRT's guide to explicit quantization.

    `exclude` names nodes to keep in float: globs, separated by commas. `ops` are the operators that
    multiply in integers; the others only carry integers on. `overrides` are ranges [lo, hi] by
    value that take the place of calibrated ones. Without `per_channel` a weight has one scale, as
    older runtimes and some accelerators want it.

    Left alone when a range is unknown, a weight is not constant, the type is not float32, in
    control flow, when no int8 node reads the result of an op that only passes integers on, and
    where there is no integer kernel: ConvTranspose, LSTM, GRU and RNN, the parts of LayerNorm, GELU
    and Softmax, depthwise convolutions between float ops, a Concat of ranges that differ much.
    """
    globs = read_globs(model, exclude, "quantize-static")
    ranges = _overridden(model, ranges, overrides or {})
    others = MAC_OPS - {op.strip() for op in ops.split(",")}
    plan = _plan(model, ranges, globs, others, target)
    if not plan.nodes:
        return 0
    if opset_version(model) < PER_CHANNEL_OPSET and raise_opset(model, PER_CHANNEL_OPSET):
        plan = _plan(model, ranges, globs, others, target)
    opset = opset_version(model)
    if opset < FIRST_OPSET:
        for node in plan.nodes:
            leave(node, f"opset {opset} has no quantization, and the model cannot be raised")
        return 0
    swishes = [node for node in plan.nodes if is_op(node, "HardSwish")]
    for node in swishes:
        open_hard_swish(node)
    if swishes:
        plan = _plan(model, ranges, globs, others, target)
    infer_shapes(model)
    per_channel = per_channel and opset >= PER_CHANNEL_OPSET
    apply_plan(Editor(model.graph, plan, target, per_channel, used_names(model)))
    return len(plan.nodes)


def _overridden(model: ir.Model, ranges: Ranges, overrides: Mapping[str, list[float]]) -> Ranges:
    made = {value.name for node in model.graph for value in node.outputs}
    names = made | {value.name for value in model.graph.inputs}
    for name, ends in overrides.items():
        if name not in names:
            raise UsageError(f"quantize-static: overrides {name!r}, which is no value of the model")
        if len(ends) != 2 or not ends[0] <= ends[1]:
            raise UsageError(f"quantize-static: the range of {name!r} must be [lo, hi], not {ends}")
    found = {name: Range(float(lo), float(hi)) for name, (lo, hi) in overrides.items()}
    return replace(ranges, values={**ranges.values, **found})


def _plan(
    model: ir.Model,
    ranges: Ranges,
    globs: list[str],
    others: Collection[str],
    target: Target,
) -> Plan:
    excluded = frozenset(
        node for node in model.graph if is_op(node, *others) or is_excluded(node, globs)
    )
    facts = Facts(ranges, _typed(model), excluded, opset_version(model))
    for node in inner_mac_nodes(model.graph):
        leave(node, "in a subgraph")
    return (make_explicit_plan if target.explicit else make_plan)(model.graph, facts)


def _typed(model: ir.Model) -> dict[str, ir.Value]:
    """Return the values of the main graph by name, in a copy with inferred types and shapes."""
    copy = model.clone()
    infer_shapes(copy)
    values = [*copy.graph.inputs, *(value for node in copy.graph for value in node.outputs)]
    return {value.name: value for value in values if value.name}
