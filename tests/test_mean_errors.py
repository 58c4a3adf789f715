"""Biases corrected without data: by what batch normalization has learnt of the inputs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from case_pages import parse
from onnxcomp.calibration.ranges import Range, Ranges
from onnxcomp.calibration.samples import open_samples
from onnxcomp.registry import Outcome, apply, find_pass
from onnxcomp.runtime import Session, input_specs
from onnxcomp.targets import TARGETS

NET = """agraph (float[N, 8, 6, 6] x) => (float[N, 6, 6, 6] y)
<float[8] gamma = {1, 2, 1, 0.5, 1, 1, 3, 1}, float[8] beta = {3, 2, 4, 1, 5, 2, 6, 3},
 float[8] mean = {0, 0, 0, 0, 0, 0, 0, 0}, float[8] var = {1, 1, 1, 1, 1, 1, 1, 1},
 float[SHAPE] w, float[6] b>
{
    n = BatchNormalization (x, gamma, beta, mean, var)
    r = Relu (n)
    y = Conv <GROUP> (r, w, b)
}"""


def quantized(shape: str, group: str) -> tuple[ir.Model, ir.Model]:
    """Return a net, and its int8 form with one scale for the weight, so that errors are large."""
    exact = parse(NET.replace("SHAPE", shape).replace("GROUP", group), 17)
    int8 = exact.clone()
    ranges = Ranges({"r": Range(0, 20), "y": Range(-40, 40)}, "minmax", 1, "")
    needs = {"ranges": ranges, "target": TARGETS["x86-vnni"]}
    assert apply(find_pass("quantize-static"), int8, {"per_channel": False}, needs).sites == 1
    return exact, int8


def corrected(exact: ir.Model, int8: ir.Model, unfused: ir.Model) -> tuple[ir.Model, Outcome]:
    after = int8.clone()
    random = open_samples("random:4", input_specs(exact), model=exact)
    target = TARGETS["x86-vnni"]
    needs = {"samples": random, "original": exact, "unfused": unfused, "target": target}
    return after, apply(find_pass("correct-bias"), after, {}, needs)


@pytest.mark.parametrize(
    ("shape", "group"), [("6, 8, 1, 1", "group = 1"), ("6, 4, 1, 1", "group = 2")]
)
def test_the_mean_error_of_rounded_weights_is_taken_out(shape: str, group: str) -> None:
    exact, int8 = quantized(shape, group)
    after, outcome = corrected(exact, int8, exact)
    assert outcome.sites == 1
    (found,) = outcome.measured
    assert found.after < 0.5 * found.before
    # On inputs as the normalization has learnt them.
    rng = np.random.default_rng(0)
    feeds = {"x": rng.normal(0, 1, (800, 8, 6, 6)).astype(np.float32)}
    wanted, *others = (Session(model).run(feeds)["y"] for model in (exact, int8, after))
    errors = [np.abs((wanted - y).mean(axis=(0, 2, 3), dtype=np.float64)) for y in others]
    assert errors[1].sum() < 0.5 * errors[0].sum(), errors


def test_without_a_normalization_nothing_is_known() -> None:
    exact, int8 = quantized("6, 8, 1, 1", "group = 1")
    plain = parse("agraph (float[N] x) => (float[N] y) { y = Relu (x) }", 17)
    nothing = exact.clone()
    for node in nothing.graph:
        if node.op_type == "BatchNormalization":
            node.outputs[0].name = "other"
    assert corrected(exact, int8, plain)[1].sites == 0
    assert corrected(exact, int8, nothing)[1].sites == 0


def test_weights_that_stand_for_something_else_are_left() -> None:
    exact, int8 = quantized("6, 8, 1, 1", "group = 1")
    other = exact.clone()
    weight = other.graph.initializers["w"]
    assert weight.const_value is not None
    weight.const_value = ir.tensor(2 * weight.const_value.numpy(), name="w")
    assert corrected(other, int8, exact)[1].sites == 0
