"""The diff of an optimization: operators, passes, nodes."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

import onnxcomp
from case_pages import parse
from onnxcomp.diff import diff_lines, graph_lines, op_changes

CNN = Path(__file__).parent.parent / "models" / "digits_cnn.onnx"


def lines(text: str, opset: int = 17) -> list[str]:
    return list(graph_lines(parse(text, opset)))


def test_operators_that_went_came_and_stayed() -> None:
    before = {"Relu": 4, "Add": 1, "Conv": 2, "Mul": 1, "Abs": 1}
    after = {"Relu": 1, "Conv": 2, "Gemm": 1, "Clip": 3, "Abs": 1}
    assert op_changes(before, after) == "-3 Relu  -1 Add  -1 Mul  +3 Clip  +1 Gemm  1 Abs  2 Conv"
    assert op_changes({}, {}) == ""


def test_a_node_is_a_line() -> None:
    text = """g (float[N, 3] x, float[3] z) => (float[N, K] y, float[N] u)
    <float[3, 4] w, int64[1] axes = {1}>
    { c = Constant <value = float[4] {1, 2, 3, 4}> ()
      t = Gemm <alpha = 2.0, beta = 1.0, transA = 0> (x, w, c)
      p, q = Split <axis = 1, num_outputs = 2> (t)
      y = Clip (p, , z)  u = ReduceSum <keepdims = 0> (q, axes) }"""
    assert lines(text, 18) == [
        "input x: float32[N,3]",
        "input z: float32[3]",
        "output y: float32[N,K]",
        "output u: float32[N]",
        "Gemm(x, float[3,4], float[4]) {alpha=2} -> t",
        "Split(t) {axis=1, num_outputs=2} -> p, q",
        "Clip(p, _, z) -> y",
        "ReduceSum(q, int64[1]) {keepdims=0} -> u",
    ]


def test_subgraphs_functions_and_foreign_nodes() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1, "here" : 1]>
    g (bool c, float[2] x) => (float[2] y) {
        a = com.microsoft.BiasGelu <kind = "fast", sizes = [1, 2, 3, 4, 5, 6, 7, 8, 9]> (x, x)
        b = If (c) <then_branch = t () => (float[2] e) { e = Neg (a) },
                    else_branch = f () => (float[2] e) { e = Abs (a) }>
        y = here.soft <axis = 1> (b)
    }
    <domain: "here", opset_import: ["" : 17]> soft <axis> (p) => (q)
    { q = Softmax <axis : int = @axis> (p) }"""
    assert lines(text)[3:] == [
        "com.microsoft.BiasGelu(x, x) {kind=fast, sizes=[1,2,3,4,5,6,7,8,...]} -> a",
        "If(c) -> b",
        "  then_branch:",
        "    Neg(a) -> e",
        "  else_branch:",
        "    Abs(a) -> e",
        "here.soft(b) {axis=1} -> y",
        "function here.soft",
        "  Softmax(p) {axis=@axis} -> q",
    ]


def test_defaults_are_left_out() -> None:
    text = """g (float[1, 1, 5, 5] x) => (float[1, 1, H, W] y) <float[1, 1, 3, 3] w>
    { t = Conv <dilations = [1, 1], group = 1, pads = [0, 0, 0, 0], strides = [1, 1]> (x, w)
      y = Conv <auto_pad = "NOTSET", pads = [1, 0, 0, 0], strides = [2, 2]> (t, w) }"""
    assert lines(text)[2:] == [
        "Conv(x, float[1,1,3,3]) -> t",
        "Conv(t, float[1,1,3,3]) {pads=[1,0,0,0], strides=[2,2]} -> y",
    ]


def test_the_whole_diff() -> None:
    text = """g (float[N, 2, 4, 4] x) => (float[N, C, H, W] y)
    <float[3, 2, 1, 1] w, float[3] s, float[3] b, float[3] mean, float[3] var>
    { r = Relu (x)  c = Conv (r, w)  y = BatchNormalization (c, s, b, mean, var) }"""
    model = parse(text, 17)
    result = onnxcomp.optimize(model, shapes={"x": (1, 2, 4, 4)})
    assert list(diff_lines(model, result.model, result.report)) == [
        "-1 BatchNormalization  1 Conv  1 Relu",
        "interface: input x float32[N,2,4,4] -> float32[1,2,4,4] (as asked)",
        "interface: output y float32[N,C,H,W] -> float32[1,3,4,4] (as asked)",
        "fuse-bn-into-conv: 1 site, 3 -> 2 nodes",
        "--- before",
        "+++ after",
        "@@ -1,5 +1,4 @@",
        "-input x: float32[N,2,4,4]",
        "-output y: float32[N,C,H,W]",
        "+input x: float32[1,2,4,4]",
        "+output y: float32[1,3,4,4]",
        " Relu(x) -> r",
        "-Conv(r, float[3,2,1,1]) -> c",
        "-BatchNormalization(c, float[3], float[3], float[3], float[3]) -> y",
        "+Conv(r, float[3,2,1,1], float[3]) -> y",
    ]


def test_nothing_done_is_no_diff() -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Relu (x) }", 17)
    result = onnxcomp.optimize(model)
    assert list(diff_lines(model, result.model, result.report)) == ["1 Relu"]


@pytest.mark.parametrize("size", [2000])
def test_a_large_diff_is_quick(size: int) -> None:
    graph = "".join(f"t{i + 1} = Relu (t{i}) " for i in range(size))
    before = parse(f"g (float[2] t0) => (float[2] t{size}) {{ {graph} }}", 17)
    after = parse(f"g (float[2] t0) => (float[2] t{size}) {{ {graph.replace('Relu', 'Abs')} }}", 17)
    report = onnxcomp.optimize(parse("g (float[2] x) => (float[2] y) { y = Abs (x) }", 17)).report
    assert len(list(diff_lines(before, after, report))) == 2 * size + 6
    assert isinstance(before, ir.Model)
