"""What runs in integer kernels: the models of `int8_zoo`, as ONNX Runtime optimizes them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

import onnxcomp
from case_pages import parse
from int8_checks import float_kernels, kernels, quantized
from int8_zoo import (
    GATED_SWISH,
    HARD_GATE,
    HARD_SWISH,
    HEAD,
    RESIDUAL,
    SCALED_SWISH,
    ZOO,
    Exhibit,
)
from onnxcomp.calibration.synthetic import runnable_feeds
from onnxcomp.graph import array, scalar
from onnxcomp.int8_coverage import coverage
from onnxcomp.registry import Leave
from onnxcomp.runtime import Session
from onnxcomp.shapes import infer_shapes


@pytest.mark.parametrize("target", ["x86-vnni", "x86"])
@pytest.mark.parametrize("name", ZOO)
def test_what_could_be_int8_is_or_a_reason_is_left(name: str, target: str) -> None:
    exhibit = ZOO[name]
    model, left = quantized(prepared(exhibit), target=target, least=exhibit.least)
    found = kernels(model)
    assert float_kernels(model) <= exhibit.floats
    assert {kernel: found[kernel] for kernel in exhibit.int8} == exhibit.int8
    reasons = [note.partition(": ")[2] for note in left]
    assert len(reasons) == len(exhibit.reasons)
    assert all(map(str.startswith, reasons, exhibit.reasons))
    notes = [Leave(*note.split(": ", 1)) for note in left]
    for node in coverage(model, notes).float_nodes:
        assert node.reason != "float kernel", node


def prepared(exhibit: Exhibit) -> ir.Model:
    model = parse(exhibit.text, exhibit.opset)
    return onnxcomp.optimize(model).model if exhibit.lossless else model


# ---------------------------------------------------------------- gates
@pytest.mark.parametrize("text", [HARD_SWISH, GATED_SWISH])
def test_the_gate_of_a_hard_swish_costs_less_than_its_int8_input(text: str) -> None:
    """The layer in int8 is as good as one whose input and result alone are rounded."""
    model, _ = quantized(text, least=34)
    gates = [node for node in model.graph if node.op_type == "LeakyRelu"]
    for gate in gates:
        (write,) = gate.outputs[0].consumers()
        (read,) = write.outputs[0].consumers()
        written = [scalar(value) for value in write.inputs[1:]]
        taken = [scalar(value) for value in read.inputs[1:]]
        assert written == [pytest.approx(6 / 254), 128]
        assert taken == [pytest.approx(1 / 254), 1]


def grid_in(model: ir.Model, name: str) -> tuple[float, float]:
    """Return scale and zero point of a quantized value."""
    scale, zero = (scalar(model.graph.initializers[f"{name}.{part}"]) for part in ("scale", "zero"))
    assert scale is not None
    assert zero is not None
    return float(scale), float(zero)


def test_what_a_hard_swish_reads_starts_at_minus_three() -> None:
    model, _ = quantized(GATED_SWISH, opset=13)
    scale, zero = grid_in(model, "c")
    assert -scale * zero == pytest.approx(-3, abs=scale)
    text = GATED_SWISH.replace(
        "(float[N, 8, 12, 12] y)", "(float[N, 8, 12, 12] y, float[N, 8, 12, 12] c)"
    )
    model, _ = quantized(text, opset=13)
    scale, zero = grid_in(model, "c")
    assert -scale * zero < -4  # as an output it is wanted whole


def test_a_value_that_is_added_too_keeps_its_low_end() -> None:
    text = GATED_SWISH.replace("h = Mul (g, c)", "h = Add (g, c)")
    model, _ = quantized(text, opset=13)
    scale, zero = grid_in(model, "c")
    assert -scale * zero < -4


def test_a_hard_sigmoid_goes_into_the_convolution_before_it() -> None:
    model, _ = quantized(HARD_GATE)
    assert not {"HardSigmoid", "LeakyRelu"} & {node.op_type for node in model.graph}
    scale, zero = grid_in(model, "gate")
    assert scale <= 1 / 255 * 1.0001
    assert zero == 0


def test_one_factor_and_one_summand_cost_nothing() -> None:
    model, _ = quantized(SCALED_SWISH, least=30)
    ops = [node.op_type for node in model.graph]
    assert ops.count("Mul") == 1
    assert "Add" not in ops


def test_a_gate_of_another_slope() -> None:
    text = GATED_SWISH.replace("0.16666667, beta = 0.5", "0.3, beta = 0.37")
    model, left = quantized(text, opset=13, least=25)
    assert kernels(model)["QLinearMul"] == 1
    assert not left


# ---------------------------------------------------------------- islands, outputs, sizes
def test_an_excluded_sum_between_int8_neighbours_stays_float() -> None:
    model, left = quantized(RESIDUAL, exclude="add")
    found = kernels(model)
    assert (found["Add"], found["QLinearAdd"], found["QLinearConv"]) == (1, 0, 2)
    assert not left


@pytest.mark.parametrize("pattern", ["HardSigmoid -> g", "Mul -> h"])
def test_an_excluded_part_of_a_hard_swish_stays_float(pattern: str) -> None:
    model, _ = quantized(GATED_SWISH, opset=13, exclude=pattern)
    assert kernels(model)["HardSigmoid"] == kernels(model)["Mul"] == 1
    assert kernels(model)["QLinearConv"] == 2


def test_scores_keep_their_own_grid_beside_boxes() -> None:
    before = parse(HEAD, 17)
    after, _ = quantized(before, least=25)
    noise = signal = 0.0
    for feeds in runnable_feeds(before, count=4):
        exact, found = (Session(model).run(feeds)["y"][:, 4:] for model in (before, after))
        signal += float(np.square(exact).sum())
        noise += float(np.square(exact - found).sum())
    assert 10 * np.log10(signal / noise) >= 25


# ---------------------------------------------------------------- where ONNX Runtime goes wrong
@pytest.mark.parametrize("mover", ["Squeeze (a, two)", "Transpose <perm = [0, 1, 3, 2]> (a)"])
def test_what_is_moved_and_then_captured_does_not_abort_the_process(mover: str) -> None:
    shape = "[1, 8, 6]" if "Squeeze" in mover else "[1, 8, 6, 1]"
    model, _ = quantized(f"""agraph (bool c, float[1, 8, 1, 6] x) => (float{shape} y)
    <float[8, 8, 1, 1] w, int64[1] two = {{2}}> {{
        a = Conv (x, w)
        b = {mover}
        y = If (c) <then_branch = g1 () => (float{shape} t) {{ t = Relu (b) }},
                    else_branch = g2 () => (float{shape} f) {{ f = Identity (b) }}>
    }}""")
    assert [node.op_type for node in model.graph].count("Sum") == 1


@pytest.mark.parametrize("dims", ["2, 8", "B, S", "3"])
@pytest.mark.parametrize("bias", ["16", "1, 16", "1, 1, 16"])
def test_a_bias_that_is_added_in_float_does_not_make_a_float_gemm(dims: str, bias: str) -> None:
    if dims == "3" and bias == "1, 1, 16":
        return  # its result has more dims
    model, left = quantized(f"""agraph (float[{dims}, 32] x) => (float[{dims}, 16] y)
    <float[32, 16] w, float[{bias}] b> {{ a = MatMul (x, w)  y = Add (b, a) }}""")
    assert not left
    assert coverage(model).macs_share == 1.0


@pytest.mark.parametrize("mode", ["edge", "reflect", "constant"])
def test_pads_of_some_axes_are_spelled_out(mode: str) -> None:
    text = f"""agraph (float[N, 8, 6, 6] x) => (float[N, 8, 6, 8] y)
    <float[8, 8, 1, 1] w, int64[2] sizes = {{1, 1}}, int64[1] last = {{-1}}, float zero = {{0.0}}>
    {{
        a = Conv (x, w)
        b = Pad <mode = "{mode}"> (a, sizes, zero, last)
        c = Transpose (b)
        d = Transpose (c)
        y = Conv (d, w)
    }}"""
    before = parse(text, 18)
    infer_shapes(before)
    model, _ = quantized(before)
    (pad,) = (node for node in model.graph if node.op_type == "Pad")
    assert array(pad.inputs[1]).tolist() == [0, 0, 0, 1, 0, 0, 0, 1]  # type: ignore[union-attr]
    assert kernels(model)["QLinearConv"] == 2
