"""absorb-high-bias: equal answers wherever channels stay above what was absorbed."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from case_pages import parse
from int8_nets import normal_feeds, quantized, run_pass, set_weight, sqnr_db
from onnxcomp.edits import sweep
from onnxcomp.runtime import Session

PASS = "absorb-high-bias"
CONV = """agraph (float[N, 4, 6, 6] x) => (float[N, 6, M, M] y)
<float[8, 4, 1, 1] w1, float[8] b1, float[8, 1, 3, 3] w2, float[6, 4, 1, 1] w3, float[6] b3,
 float[8, 8, 1, 1] w4>
{ c = Conv (x, w1, b1)  r = Relu (c)  READERS }"""
READERS = {
    "depthwise": "d = Conv <group = 8> (r, w2)  y = Conv <group = 2> (d, w3, b3)",
    "grouped": "y = Conv <group = 2, strides = [2, 2]> (r, w3, b3)",
    "two": 'd = Conv (r, w4)  e = Conv <auto_pad = "VALID"> (r, w4b)  s = Add (d, e)'
    "  y = Conv <group = 2> (s, w3)",
}


def biased(text: str, count: int = 2, high: float = 30.0, seed: int = 0) -> ir.Model:
    """Return a model in which `count` channels lie far above 0."""
    model = parse(
        text.replace("float[8, 8, 1, 1] w4", "float[8, 8, 1, 1] w4, float[8, 8, 1, 1] w4b"), 17
    )
    rng = np.random.default_rng(seed)
    bias = rng.standard_normal(8)
    bias[:count] = high
    set_weight(model, "c", rng.standard_normal((8, 4, 1, 1)) * 0.5)
    set_weight(model, "c", bias, index=2)
    sweep(model)
    return model


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(READERS)), st.integers(1, 8))
def test_answers_are_equal_where_nothing_falls_lower(seed: int, readers: str, count: int) -> None:
    model = biased(CONV.replace("READERS", READERS[readers]), count, seed=seed)
    feeds = normal_feeds("x", (1, 4, 6, 6), 4, seed)
    after, outcome = run_pass(PASS, model, feeds)
    assert outcome.sites == 1
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    assert outcome.measured[0].after < outcome.measured[0].before
    for each in feeds:
        wanted, found = Session(model).run(each)["y"], Session(after).run(each)["y"]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_gemm_with_alpha_and_beta() -> None:
    text = """agraph (float[N, 4] x) => (float[N, 6] y)
    <float[4, 8] w1, float[1, 8] b1, float[6, 8] w2, float[6] b2>
    {
        c = Gemm <beta = 0.5> (x, w1, b1)
        r = Relu (c)
        y = Gemm <alpha = 0.5, beta = 3.0, transB = 1> (r, w2, b2)
    }"""
    model, feeds = parse(text, 17), normal_feeds("x", (3, 4), 4)
    set_weight(model, "c", np.array([[40.0, 60, 0, 0, 0, 0, 0, 0]]), index=2)
    after, outcome = run_pass(PASS, model, feeds)
    assert outcome.sites == 1
    for each in feeds:
        wanted, found = Session(model).run(each)["y"], Session(after).run(each)["y"]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)


def test_int8_gains_what_the_range_loses() -> None:
    """The weights behind the high channels cancel, so that their numbers are not the answer's."""
    text = """agraph (float[N, 8] x) => (float[N, 6] y)
    <float[8, 8] w1, float[8] b1, float[8, 6] w2>
    { c = Gemm (x, w1, b1)  r = Relu (c)  y = Gemm (r, w2) }"""
    model, rng = parse(text, 17), np.random.default_rng(0)
    set_weight(model, "c", 0.5 * rng.standard_normal((8, 8)))
    set_weight(model, "c", np.array([30.0, 30, 0, 0, 0, 0, 0, 0]), index=2)
    tail = rng.standard_normal((8, 6))
    tail[1] = -tail[0]
    set_weight(model, "y", tail)
    feeds, held_out = (normal_feeds("x", (4, 8), 16, seed) for seed in (0, 1))
    after, outcome = run_pass(PASS, model, feeds)
    assert outcome.measured[0].after < 0.4 * outcome.measured[0].before
    plain, better = (sqnr_db(model, quantized(each, feeds), held_out) for each in (model, after))
    assert better > plain + 3, (plain, better)


@pytest.mark.parametrize(
    ("readers", "reason"),
    [
        ("y = Conv <group = 2, pads = [0, 0, 1, 1]> (r, w3)", "a reader of its Relu pads"),
        ('y = Conv <group = 2, auto_pad = "SAME_UPPER"> (r, w3)', "a reader of its Relu pads"),
        ("s = Sigmoid (r)  y = Conv <group = 2> (s, w3)", "what reads its Relu is no Conv or Gemm"),
        ("d = Conv (r, w4)  s = Add (d, r)  y = Conv <group = 2> (s, w3)", "what reads its Relu"),
        ("d = Conv (r, w4)  e = Conv (d, w4)  y = Conv <group = 2> (e, w3)", "a weight is shared"),
    ],
)
def test_left_alone(readers: str, reason: str) -> None:
    model = biased(CONV.replace("READERS", readers))
    after, outcome = run_pass(PASS, model, normal_feeds("x", (1, 4, 6, 6), 4))
    assert outcome.sites == 0
    assert any(reason in left.reason for left in outcome.left)
    assert ir.to_proto(after) == ir.to_proto(model)


def test_channels_that_reach_zero_are_left() -> None:
    model = biased(CONV.replace("READERS", READERS["grouped"]), 0)
    assert run_pass(PASS, model, normal_feeds("x", (1, 4, 6, 6), 8))[1].sites == 0
