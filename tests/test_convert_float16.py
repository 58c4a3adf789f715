"""convert-float16 and share-similar-weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxcomp
from case_pages import parse
from onnxcomp.calibration.samples import open_samples
from onnxcomp.calibration.synthetic import runnable_feeds
from onnxcomp.edits import sweep
from onnxcomp.errors import UsageError
from onnxcomp.graph import all_nodes
from onnxcomp.parity import compare_outputs
from onnxcomp.passes.quantize._float16 import weight_problem
from onnxcomp.registry import Outcome, apply, find_pass
from onnxcomp.runtime import Session, input_specs
from onnxcomp.targets import TARGETS

PASS, SHARE = find_pass("convert-float16"), find_pass("share-similar-weights")
MODELS = Path(__file__).resolve().parent.parent / "models"
NET = """agraph (float[N, 3, 8, 8] x, int64[N] index) => (float[N, 4] y, float[N, 8] e)
<float[4, 3, 3, 3] k, float[4] s, float[4] b, float[4] m, float[4] v,
 float[4] scales = {1, 1, 2, 2}, float[9, 8] table, float two = {2}>
{
    c = Conv (x, k)
    n = BatchNormalization (c, s, b, m, v)
    r = Relu (n)
    z = Resize <mode = "nearest"> (r, , scales)
    p = Pow (z, two)
    g = GlobalAveragePool (p)
    y = Flatten (g)
    e = Gather (table, index)
}"""


def converted(text: str, **options: object) -> tuple[ir.Model, Outcome]:
    before = parse(text, 17)
    after = before.clone()
    samples = open_samples("random:2", input_specs(before), model=before)
    target = TARGETS[str(options.pop("target", "x86"))]
    outcome = apply(PASS, after, {"least": 16, **options}, {"samples": samples, "target": target})
    sweep(after)
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    for feeds in runnable_feeds(before, count=2):
        found = compare_outputs(Session(before).run(feeds), Session(after).run(feeds))
        assert found.sqnr_db > 30
    return after, outcome


def test_computing_leaves_what_has_no_float16_and_the_interface() -> None:
    after, outcome = converted(NET, target="tensorrt")
    reasons = {each.reason for each in outcome.left}
    assert reasons == {"Pow is computed in float32"}
    assert [value.dtype for value in after.graph.outputs] == [ir.DataType.FLOAT] * 2
    assert [value.name for value in after.graph.outputs] == ["y", "e"]
    scales = after.graph.initializers["scales"].const_value
    assert scales is not None
    assert scales.dtype == ir.DataType.FLOAT  # Resize reads them in float32 alone
    conv = next(node for node in all_nodes(after) if node.op_type == "Conv")
    assert conv.outputs[0].dtype == ir.DataType.FLOAT16
    again = after.clone()
    samples = open_samples("random:2", input_specs(after), model=after)
    needs = {"samples": samples, "target": TARGETS["tensorrt"]}
    assert apply(PASS, again, {"least": 16}, needs).sites == 0


def test_values_beyond_float16_are_computed_in_float32() -> None:
    text = """agraph (float[N, 8] x) => (float[N, 8] y) <float[8] big = {3e4, 3e4, 3e4, 3e4,
    3e4, 3e4, 3e4, 3e4}, float[8, 8] w>
    { a = Mul (x, big)  b = Div (a, big)  y = MatMul (b, w) }"""
    after, outcome = converted(text, mode="compute")
    left = {each.node: each.reason for each in outcome.left}
    assert len(left) == 2
    assert all("beyond what float16 has digits for" in reason for reason in left.values())
    matmul = next(node for node in all_nodes(after) if node.op_type == "MatMul")
    assert matmul.inputs[1] is not None
    assert matmul.inputs[1].dtype == ir.DataType.FLOAT16


@given(st.floats(1e-12, 1e8), st.integers(0, 99))
def test_a_weight_fits_where_its_digits_do(size: float, seed: int) -> None:
    weight = (np.random.default_rng(seed).uniform(0.5, 1, 64) * size).astype(np.float32)
    if 0.001 < size < 65000:
        assert not weight_problem(weight)
    if size > 140000:
        assert "beyond float16" in weight_problem(weight)
    if size < 1e-6:
        assert "loses its digits" in weight_problem(weight)


def test_storage_halves_the_file_and_keeps_the_kernels() -> None:
    for name, floor in (("fp16", 60), ("bf16", 40)):
        result = onnxcomp.optimize(
            MODELS / "digits_cnn.onnx", weights=name, calib=MODELS / "digits.npz", threads=1
        )
        assert result.report.passed
        assert result.report.parity is not None
        assert result.report.parity.sqnr_db > floor
        assert result.report.after.cost.bytes < 0.52 * result.report.before.cost.bytes


def test_bfloat16_is_not_computed_in() -> None:
    with pytest.raises(UsageError, match="storage"):
        converted(NET, mode="compute", type="bfloat16")
    with pytest.raises(UsageError, match="mode is one of"):
        converted(NET, mode="x")


# ---------------------------------------------------------------- near copies
def shared(tolerance: float, distance: float) -> tuple[int, ir.Model]:
    text = """agraph (float[N, 16] x) => (float[N, 16] y, float[N, 16] z, float[N, 16] u)
<float[16, 16] a, float[16, 16] b, float[16, 16] c>
{ y = MatMul (x, a)  z = MatMul (x, b)  u = MatMul (x, c) }"""
    model = parse(text, 17)
    values = model.graph.initializers
    first = values["a"].const_value.numpy()  # type: ignore[union-attr]
    noise = np.random.default_rng(0).standard_normal(first.shape)
    noise *= distance * np.linalg.norm(first) / np.linalg.norm(noise)
    values["b"].const_value = ir.tensor((first + noise).astype(np.float32))
    outcome = apply(SHARE, model, {"tolerance": tolerance})
    sweep(model)
    return outcome.sites, model


def test_weights_within_the_tolerance_are_one_and_others_are_not() -> None:
    assert shared(0.01, 0.0099)[0] == 1
    assert len(shared(0.01, 0.0099)[1].graph.initializers) == 2
    assert shared(0.01, 0.0101)[0] == 0
    assert shared(0.0, 0.0101)[0] == 0
    with pytest.raises(UsageError, match="tolerance"):
        shared(1.0, 0.1)
