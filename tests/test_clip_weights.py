"""clip-weights: the error of rounding and clipping falls, row by row."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st

from case_pages import parse
from int8_nets import run_pass, set_weight, weight
from onnxcomp.graph import Array
from onnxcomp.passes.quantize._numbers import quantize_weight

PASS = "clip-weights"
TEXT = """agraph (float[N, 64] x) => (float[N, 4] y)
<float[64, 64] w, float[64, 4] v> { a = MatMul (x, w)  y = Gemm (a, v) }"""


def errors(exact: Array, data: Array, largest: int) -> Array:
    """Return the squared error of each column when `data` is stored for `exact`."""
    stored = quantize_weight(data, 1, largest)
    return np.asarray(np.square(stored.data * stored.scale.astype(np.float64) - exact).sum(axis=0))


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["x86", "x86-vnni"]), st.floats(1.5, 10))
def test_no_row_gets_worse(seed: int, target: str, freedom: float) -> None:
    rng = np.random.default_rng(seed)
    model, largest = parse(TEXT, 17), {"x86": 64, "x86-vnni": 127}[target]
    before = rng.standard_t(freedom, (64, 64)).astype(np.float32)
    before[:, 0] = 0
    set_weight(model, "a", before)
    after, outcome = run_pass(PASS, model, [{"x": np.zeros((1, 64), np.float32)}], target)
    data = weight(after, "a")
    plain, clipped = (errors(before, each, largest) for each in (before, data))
    assert np.all(clipped <= plain * (1 + 1e-5) + 1e-12)
    assert np.all(np.abs(data) <= np.abs(before))
    assert outcome.sites == sum(
        each in after.graph.initializers for each in ("a.given.clipped", "v.clipped")
    )
    for found in outcome.measured:
        assert found.after > found.before


def test_a_lone_large_weight_is_clipped() -> None:
    rng = np.random.default_rng(0)
    model = parse(TEXT.replace("64]", "4096]", 1).replace("[64, 64]", "[4096, 64]"), 17)
    before = rng.standard_normal((4096, 64)).astype(np.float32)
    before[0] = 6.0
    set_weight(model, "a", before)
    after, outcome = run_pass(PASS, model, [{"x": np.zeros((1, 4096), np.float32)}], "x86")
    data = weight(after, "a")
    assert outcome.sites == 1
    assert np.abs(data[0]).max() < 6.0
    assert errors(before, data, 64).sum() < 0.95 * errors(before, before, 64).sum()


def test_a_shared_weight_is_left() -> None:
    text = """agraph (float[N, 64] x) => (float[N, 64] y)
    <float[64, 64] w> { a = MatMul (x, w)  y = MatMul (a, w) }"""
    model = parse(text, 17)
    after, outcome = run_pass(PASS, model, [{"x": np.zeros((1, 64), np.float32)}])
    assert {left.reason for left in outcome.left} == {"its weight is shared"}
    assert ir.to_proto(after) == ir.to_proto(model)
