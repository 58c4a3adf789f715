"""What is counted as int8 is what ONNX Runtime runs in int8."""

from __future__ import annotations

import numpy as np
import pytest

from case_pages import parse
from onnxcomp.calibration.ranges import Range, Ranges
from onnxcomp.int8_coverage import FloatNode, coverage
from onnxcomp.registry import apply, find_pass
from onnxcomp.targets import TARGETS

TEXT = """agraph (float[1, 8, 6, 6] x) => (float[1, 8, 6, 6] y)
<float[8, 8, 3, 3] w, float[8, 8, 1, 1] v>
{ c = Conv <pads = [1, 1, 1, 1]> (x, w)  d = ConvTranspose (c, v)  y = Conv (d, v) }"""
RANGES = Ranges({name: Range(-9, 9) for name in "xcdy"}, "minmax", 1, "")


def test_shares_are_weighted_by_multiply_accumulates() -> None:
    model = parse(TEXT, 17)
    needs = {"ranges": RANGES, "target": TARGETS["x86"]}
    left = apply(find_pass("quantize-static"), model, {}, needs).left
    found = coverage(model, left)
    assert (found.int8_nodes, found.nodes) == (2, 3)
    assert found.macs_share == pytest.approx(10 / 11)
    reason = "ONNX Runtime has no int8 kernel for ConvTranspose"
    assert found.float_nodes == (FloatNode("ConvTranspose -> d", "ConvTranspose", reason),)
    feeds = {"x": np.zeros((1, 8, 6, 6), np.float32)}
    assert coverage(model, left, feeds) == found


def test_a_float_model_and_one_that_multiplies_nothing() -> None:
    found = coverage(parse(TEXT, 17))
    assert found.int8_nodes == 0
    assert found.macs_share == 0
    assert {item.reason for item in found.float_nodes} == {"float kernel"}
    text = "agraph (float[N] x) => (float[N] y) { y = Relu (x) }"
    assert coverage(parse(text, 17)).macs_share is None


def test_the_model_is_not_changed() -> None:
    model = parse(TEXT, 17)
    coverage(model)
    assert not any(node.name for node in model.graph)
