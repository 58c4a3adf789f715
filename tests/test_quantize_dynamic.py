"""quantize-dynamic: the forms that ONNX Runtime fuses, answers, and what stays float."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from case_pages import parse
from onnxcomp.calibration.synthetic import runnable_feeds
from onnxcomp.cost import measure
from onnxcomp.edits import sweep
from onnxcomp.errors import UsageError
from onnxcomp.graph import all_nodes, array, opset_version
from onnxcomp.int8_coverage import coverage, optimized_graph
from onnxcomp.parity import compare_outputs
from onnxcomp.passes.quantize import quantize_dynamic as module
from onnxcomp.registry import Outcome, apply, find_pass
from onnxcomp.runtime import LEVELS, Session
from onnxcomp.targets import TARGETS

PASS = find_pass("quantize-dynamic")
PRODUCTS = {"MatMul", "Gemm", "FusedMatMul", "MatMulInteger", "LSTM", "Cast"}
PRODUCTS |= {"DynamicQuantizeMatMul", "MatMulIntegerToFloat", "DynamicQuantizeLSTM"}

ATTENTION = """agraph (float[N, 6, 32] x) => (float[N, 6, 32] y)
<float[32, 32] wq, float[32, 32] wk, float[32, 32] wv, float[32, 32] wo, float[32] bq, float[32] bo>
{
    [q] q0 = MatMul (x, wq)
    q1 = Add (bq, q0)
    [k] k0 = MatMul (x, wk)
    [v] v0 = MatMul (x, wv)
    kt = Transpose <perm = [0, 2, 1]> (k0)
    [scores] s = MatMul (q1, kt)
    p = Softmax <axis = -1> (s)
    [mix] o = MatMul (p, v0)
    [out] o1 = MatMul (o, wo)
    y = Add (o1, bo)
}"""
# Hidden size 8 and 16 features; every optional input and most attributes.
LSTM = """agraph (float[5, 3, 16] x, float[2, 3, 8] h0, float[2, 3, 8] c0)
=> (float[5, 2, 3, 8] y, float[2, 3, 8] h, float[2, 3, 8] c)
<float[2, 32, 16] w, float[2, 32, 8] r, float[2, 64] b, int32[3] lengths = {5, 2, 4},
 float[2, 24] p>
{
    [lstm] y, h, c = LSTM <hidden_size = 8, direction = "bidirectional", clip = 3.0,
        activations = ["Sigmoid", "Tanh", "Tanh", "Sigmoid", "Tanh", "Softsign"]>
        (x, w, r, b, lengths, h0, c0, p)
}"""


def quantized(
    text: str | ir.Model,
    *,
    opset: int = 17,
    target: str = "x86-vnni",
    least: float = 25.0,
    **options: object,
) -> tuple[ir.Model, Outcome]:
    """Quantize, and check what every result promises."""
    before = parse(text, opset) if isinstance(text, str) else text
    after = before.clone()
    needs = {"target": TARGETS[target]}
    outcome = apply(PASS, after, options, needs)
    sweep(after)
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    for feeds in runnable_feeds(before, count=2):
        wanted = Session(before).run(feeds)
        for level in LEVELS:
            found = Session(after, optimize=level).run(feeds)
            assert compare_outputs(wanted, found).sqnr_db > least
    assert apply(PASS, after.clone(), options, needs).sites == 0
    return after, outcome


def kernels(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in optimized_graph(model) if node.op_type in PRODUCTS)


def reasons(outcome: Outcome) -> dict[str, str]:
    return {item.node: item.reason for item in outcome.left}


@pytest.fixture
def _small_lstm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_WEIGHTS", 0)


# ---------------------------------------------------------------- products
def test_readers_of_one_activation_share_its_quantization_and_all_are_fused() -> None:
    model, outcome = quantized(ATTENTION)
    assert outcome.sites == 4
    assert reasons(outcome) == dict.fromkeys(["scores", "mix"], "it multiplies two activations")
    assert Counter(n.op_type for n in model.graph)["DynamicQuantizeLinear"] == 2
    assert kernels(model) == {"MatMulIntegerToFloat": 3, "DynamicQuantizeMatMul": 1} | {
        "MatMul": 1,
        "FusedMatMul": 1,
    }
    assert not any(node.op_type == "Add" for node in optimized_graph(model))


@pytest.mark.parametrize(
    "attributes", ["transB = 0", "transB = 1", "alpha = 0.5, beta = 2.0, transB = 1"]
)
@pytest.mark.parametrize("bias", ["float[12] b", "float[1, 12] b", "float b", ""])
def test_a_gemm_with_its_bias_is_one_kernel(attributes: str, bias: str) -> None:
    shape = "12, 16" if "transB = 1" in attributes else "16, 12"
    weights = ", ".join(filter(None, [f"float[{shape}] w", bias]))
    model, _ = quantized(
        f"agraph (float[N, 16] x) => (float[N, 12] y) <{weights}> "
        f"{{ y = Gemm <{attributes}> (x, w{', b' if bias else ''}) }}"
    )
    assert kernels(model) == {"DynamicQuantizeMatMul": 1}
    assert len(optimized_graph(model)) == 1


@pytest.mark.parametrize("opset", [9, 11, 13, 21])
@pytest.mark.parametrize("shape", ["16", "N, 16", "N, 2, 3, 16"])
def test_every_rank_and_opset(opset: int, shape: str) -> None:
    out = shape.removesuffix("16") + "12"
    model, _ = quantized(
        f"agraph (float[{shape}] x) => (float[{out}] y) <float[16, 12] w> {{ y = MatMul (x, w) }}",
        opset=opset,
    )
    assert opset_version(model) == max(opset, 11)
    assert kernels(model) == {"DynamicQuantizeMatMul": 1}


def test_weights_are_stored_once_and_in_the_graph_where_they_were() -> None:
    model, outcome = quantized("""agraph (float[N, 16] x, bool b) => (float[N, 16] y)
<float[16, 16] w> {
    m = MatMul (x, w)
    y = If (b) <
        then_branch = t () => (float[N, 16] p) <float[16, 16] v>
        { u = MatMul (m, w) p = MatMul (u, v) },
        else_branch = e () => (float[N, 16] q) { q = Gemm (m, w) }
    >
}""")
    assert outcome.sites == 4
    assert [v for v in model.graph.initializers if v.startswith("w")] == ["w.q", "w.scale"]
    inner = {name for graph in model.graph.subgraphs() for name in graph.initializers}
    assert inner == {"v.q", "v.scale"}


@given(st.integers(1, 5), st.integers(1, 40), st.integers(1, 6), st.integers(0, 99), st.booleans())
def test_no_result_is_off_by_more_than_half_a_step_of_each_factor(
    rows: int, inner: int, columns: int, seed: int, narrow: bool
) -> None:
    rng = np.random.default_rng(seed)
    model = parse(
        f"agraph (float[N, {inner}] x) => (float[N, {columns}] y) "
        f"<float[{inner}, {columns}] w> {{ y = MatMul (x, w) }}",
        17,
    )
    weight = array(model.graph.initializers["w"])
    assert weight is not None
    target = TARGETS["x86" if narrow else "x86-vnni"]
    assert apply(PASS, model, {}, {"target": target}).sites == 1
    x = (rng.normal(size=(rows, inner)) * rng.choice([1e-3, 1.0, 1e3])).astype(np.float32)
    found = Session(model).run({"x": x})["y"]
    x_step = (max(x.max(), 0) - min(x.min(), 0)) / 255
    w_step = np.abs(weight).max(axis=0) / target.weight_max
    # the zero point is rounded too, so an activation is off by a whole step at the ends
    bound = np.abs(x) @ np.repeat(w_step[None] / 2, inner, 0)
    bound = bound + x_step * (np.abs(weight).sum(axis=0) + inner * w_step / 2)
    assert np.all(np.abs(found - x @ weight) <= 1.01 * bound + 1e-6)


def test_inputs_of_zeros_and_empty_ones() -> None:
    text = """agraph (float[N, 16] x) => (float[N, 12] y)
<float[16, 12] w, float[12] b> { y = Gemm (x, w, b) }"""
    before = parse(text, 17)
    after, _ = quantized(before)
    for optimize in (False, True):
        session = Session(after, optimize=optimize)
        zeros = {"x": np.zeros((2, 16), np.float32)}
        np.testing.assert_allclose(session.run(zeros)["y"], Session(before).run(zeros)["y"])
        assert session.run({"x": np.zeros((0, 16), np.float32)})["y"].shape == (0, 12)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("<float[2, 16, 16] w> { [n] y = MatMul (x, w) }", "its weight is not one matrix"),
        ("<float[16] w> { [n] y = MatMul (x, w) }", "its weight is not one matrix"),
        ("<float[16, 16] w> { [n] y = Gemm <transA = 1> (x, w) }", "its input is transposed"),
        ("<float[16, 16] w> { [n] y = MatMul (w, x) }", "its input is constant"),
        ("<float[16, 16] w> { [n] y = Gemm (x, w, x) }", "its bias is not one constant per column"),
        (
            "<float[16, 16] w, float[16, 1] b> { [n] y = Gemm (x, w, b) }",
            "its bias is not one constant per column",
        ),
        (
            "<float[16, 16] w, float s = {0.1}, uint8 z = {128}> "
            "{ q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) [n] y = MatMul (d, w) }",
            "its input comes from int8 already",
        ),
    ],
)
def test_what_stays_float_hears_why(body: str, reason: str) -> None:
    rank = (
        "float[M]" if "[16] w" in body else "float[2, 16, 16]" if "[2," in body else "float[16, 16]"
    )
    _, outcome = quantized(f"agraph (float[16, 16] x) => ({rank} y) {body}")
    assert outcome.sites == 0
    assert reasons(outcome)["n"].startswith(reason)


def test_excluded_nodes_stay_float_and_a_glob_must_match() -> None:
    model, outcome = quantized(ATTENTION, exclude="[qk], out")
    assert outcome.sites == 1
    assert Counter(reasons(outcome).values())["excluded"] == 3
    assert kernels(model) == {"DynamicQuantizeMatMul": 1, "MatMul": 4, "FusedMatMul": 1}
    with pytest.raises(UsageError, match="matches no node"):
        quantized(ATTENTION, exclude="nothing*")


def test_a_target_without_dynamic_quantization() -> None:
    target = replace(TARGETS["x86"], name="tensorrt")
    outcome = apply(PASS, parse(ATTENTION, 17), {}, {"target": target})
    assert set(reasons(outcome).values()) == {"tensorrt has no dynamic quantization"}


def test_what_is_int8_already_is_not_touched() -> None:
    _, outcome = quantized("""agraph (float[N, 16] x) => (float[N, 16] y)
<int8[16, 16] w, float s = {0.01}, int8 z = {0}, float t = {0.1}, uint8 u = {128}> {
    q = QuantizeLinear (x, t, u)
    d = DequantizeLinear (q, t, u)
    v = DequantizeLinear (w, s, z)
    y = MatMul (d, v)
}""")
    assert (outcome.sites, outcome.left) == (0, ())


# ---------------------------------------------------------------- LSTM
@pytest.mark.usefixtures("_small_lstm")
def test_an_lstm_keeps_its_inputs_attributes_and_results() -> None:
    model, outcome = quantized(LSTM)
    assert outcome.sites == 1
    assert kernels(model) == {"DynamicQuantizeLSTM": 1}
    (node,) = model.graph
    given = [value for value in node.inputs if value is not None]
    assert [value.name for value in given[3:8]] == ["b", "lengths", "h0", "c0", "p"]
    assert [value.shape for value in given[1:3]] == [(2, 16, 32), (2, 8, 32)]
    assert [value.shape for value in given[8:]] == [(2, 32)] * 4
    assert node.attributes.get_float("clip") == 3.0
    assert [value.name for value in model.graph.outputs] == ["y", "h", "c"]


@pytest.mark.usefixtures("_small_lstm")
def test_an_lstm_in_a_branch_with_one_result() -> None:
    model, _ = quantized("""agraph (float[5, N, 16] x, bool b) => (float[1, N, 8] y)
<float[1, 32, 8] r> {
    y = If (b) <
        then_branch = t () => (float[1, N, 8] p) <float[1, 32, 16] w>
        { one, p = LSTM <hidden_size = 8> (x, w, r) },
        else_branch = e () => (float[1, N, 8] q) <float[1, 32, 16] v>
        { two, q = LSTM <hidden_size = 8, direction = "reverse"> (x, v, r) }
    >
}""")
    assert kernels(model) == {"DynamicQuantizeLSTM": 2}
    assert model.opset_imports["com.microsoft"] == 1


@pytest.mark.usefixtures("_small_lstm")
@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        (("", ""), {"lstm": False}, "LSTM was not asked for"),
        (("", ""), {"target": "portable"}, "an int8 LSTM is ONNX Runtime's own"),
        (("LSTM <", "LSTM <layout = 1, "), {}, "it is batch first"),
        (("LSTM", "GRU"), {}, "ONNX Runtime has no int8 kernel for GRU"),
    ],
)
def test_an_lstm_that_stays_float(
    change: tuple[str, str], options: dict[str, object], reason: str
) -> None:
    text = """agraph (float[N, 5, 16] x) => (float[N, M, H, 8] y)
<float[1, 32, 16] w, float[1, 32, 8] r> { [n] y = LSTM <hidden_size = 8> (x, w, r) }"""
    model = parse(text.replace(*change).replace("32", "24" if change[1] == "GRU" else "32"), 17)
    target = str(options.pop("target", "x86"))
    outcome = apply(PASS, model, options, {"target": TARGETS[target]})
    assert outcome.sites == 0
    assert reasons(outcome)["n"].startswith(reason)


def test_a_small_lstm_stays_float() -> None:
    _, outcome = quantized(LSTM)
    assert reasons(outcome) == {"lstm": "it is so small that it is faster in float"}


# ---------------------------------------------------------------- what is counted as int8
def test_all_products_of_a_transformer_with_weights_count_as_int8() -> None:
    model, outcome = quantized(ATTENTION)
    feeds = runnable_feeds(model, count=1)[0]
    found = coverage(model, outcome.left, feeds)
    weights, activations = 4 * 6 * 32 * 32, 2 * 6 * 6 * 32
    assert found.macs_share == pytest.approx(weights / (weights + activations))
    assert {item.reason for item in found.float_nodes} == {"it multiplies two activations"}
    text = ATTENTION.replace("[scores] s = MatMul (q1, kt)", "s = Add (q1, k0)")
    text = text.replace("[mix] o = MatMul (p, v0)", "o = Mul (p, v0)")
    model, _ = quantized(text)
    assert coverage(model, (), feeds).macs_share == 1.0


@pytest.mark.usefixtures("_small_lstm")
def test_an_int8_lstm_counts_the_multiplications_of_the_float_one() -> None:
    before = parse(LSTM, 17)
    after, _ = quantized(before)
    assert measure(after).macs == measure(before).macs == 5 * 3 * 2 * 32 * (16 + 8)
    assert coverage(after).macs_share == 1.0
    assert not any(node.op_type == "LSTM" for node in all_nodes(after))
