"""Raising the operator set: every adapter, in main graph and subgraph, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from case_pages import parse
from onnxcomp.calibration.synthetic import runnable_feeds
from onnxcomp.graph import opset_version
from onnxcomp.opset import raise_opset
from onnxcomp.parity import compare_outputs
from onnxcomp.registry import Effect
from onnxcomp.runtime import Session

X = "agraph (float[N, 4, 6, 6] x) => (float[A, B, C, D] y)"
CASES = {
    "slice-9": "y = Slice <starts = [1, 0], ends = [3, 5], axes = [1, 2]> (x)",
    "clip-9": "y = Clip <min = -0.5, max = 0.5> (x)",
    "clip-10": "y = Clip <max = 0.5> (x)",
    "pad-10": "y = Pad <pads = [0, 0, 1, 1, 0, 0, 0, 2], value = 0.5> (x)",
    "pad-9": 'y = Pad <mode = "reflect", pads = [0, 0, 1, 1, 0, 0, 0, 2]> (x)',
    "squeeze-12": "u = Unsqueeze <axes = [0]> (x)  y = Squeeze <axes = [0]> (u)",
    "sum-11": "y = ReduceSum <axes = [1, 3], keepdims = 1> (x)",
    "sum-12": "y = ReduceSum <keepdims = 1> (x)",
    "split-11": "a, b = Split <axis = 1, split = [1, 3]> (x)  y = Mul (a, b)",
    "split-9": "a, b = Split <axis = 1> (x)  y = Mul (a, b)",
    "softmax-12": "y = Softmax (x)",
    "softmax-11": "y = Softmax <axis = 3> (x)",
    "softmax-10": "y = LogSoftmax <axis = 2> (x)",
    "dropout-9": "y = Dropout <ratio = 0.5> (x)",
    "upsample-9": """s = Constant <value = float[4] {1, 1, 2, 3}> ()
        y = Upsample <mode = "nearest"> (x, s)""",
    "upsample-8": 'y = Upsample <mode = "linear", scales = [1.0, 1.0, 2.0, 2.0]> (x)',
    "resize-10": """s = Constant <value = float[4] {1, 1, 1.7, 2.5}> ()
        y = Resize <mode = "nearest"> (x, s)""",
    "topk-9": "y, i = TopK <axis = 1, k = 2> (x)",
    "norm-8": """s = Constant <value = float[4] {1, 2, 3, 4}> ()
        y = BatchNormalization (x, s, s, s, s)""",
}


@pytest.mark.parametrize("name", CASES)
def test_a_raised_model_answers_as_before(name: str) -> None:
    before = parse(f"{X} {{ {CASES[name]} }}", int(name.rpartition("-")[2]))
    before.metadata_props["who"] = "me"
    model = before.clone()
    assert raise_opset(model, 13)
    assert opset_version(model) == 13
    assert model.ir_version >= 7
    assert dict(model.metadata_props) == {"who": "me"}
    proto, old = ir.to_proto(model), ir.to_proto(before)
    assert list(proto.graph.input) == list(old.graph.input)
    assert list(proto.graph.output) == list(old.graph.output)
    onnx.checker.check_model(proto, full_check=True)
    for feeds in runnable_feeds(before, count=2):
        parity = compare_outputs(Session(before).run(feeds), Session(model).run(feeds))
        assert not parity.failures(Effect.CLOSE)


def test_subgraphs_are_raised_too() -> None:
    text = """agraph (bool c, float[4, 6] x) => (float[4, 6] y) {
        y = If (c) <then_branch = g1 () => (float[4, 6] a) { a = Clip <min = 0.0> (x) },
                    else_branch = g2 () => (float[4, 6] b) { b = Softmax <axis = 0> (x) }>
    }"""
    before = parse(text, 10)
    model = before.clone()
    assert raise_opset(model, 13)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    data = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    for flag in (True, False):
        feeds = {"c": np.array(flag), "x": data}
        parity = compare_outputs(Session(before).run(feeds), Session(model).run(feeds))
        assert not parity.failures(Effect.CLOSE)


def test_what_would_answer_otherwise_is_not_raised() -> None:
    """ONNX Runtime rounds up where an old Resize shrinks, which the standard does not say."""
    body = CASES["resize-10"].replace("2.5", "0.6")
    assert not raise_opset(parse(f"{X} {{ {body} }}", 10), 13)


def test_what_cannot_be_raised_is_not_touched() -> None:
    text = """agraph (float[1, 2, 4, 4] x) => (float[A, B, C, D] y)
    <float[4] s = {1, 1, 2, 2}, float[8] roi>
    { y = Resize <coordinate_transformation_mode = "tf_half_pixel_for_nn"> (x, roi, s) }"""
    before = parse(text, 11)
    model = before.clone()
    assert not raise_opset(model, 13)
    assert ir.to_proto(model) == ir.to_proto(before)
    assert not raise_opset(parse(f"{X} {{ y = Relu (x) }}", 6), 13)


def test_a_later_model_stays() -> None:
    model = parse(f"{X} {{ y = Relu (x) }}", 17)
    assert raise_opset(model, 13)
    assert opset_version(model) == 17
