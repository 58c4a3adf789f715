"""MACs and parameters against published figures."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from case_pages import parse
from onnxcomp.cost import measure, node_costs
from zoo import mobilenet_v2, resnet50


def test_resnet50_has_4_09_gmacs_and_25_5_m_params() -> None:
    cost = measure(resnet50(), size=0)
    assert cost.macs == pytest.approx(4.09e9, rel=0.002)
    assert cost.params == pytest.approx(25.5e6, rel=0.005)


def test_mobilenet_v2_has_0_30_gmacs_and_3_5_m_params() -> None:
    cost = measure(mobilenet_v2(), size=0)
    assert cost.macs == pytest.approx(0.30e9, rel=0.005)
    assert cost.params == pytest.approx(3.47e6, rel=0.01)


@pytest.mark.parametrize(
    ("text", "macs"),
    [
        ("g (float[2,8] x) => (float[2,4] y) <float[8,4] w> { y = MatMul (x, w) }", 64),
        ("g (float[2,8] x) => (float[2,4] y) <float[4,8] w> { y = Gemm <transB = 1> (x, w) }", 64),
        (
            "g (float[3,2,8] x, float[3,8,5] z) => (float[3,2,5] y) { y = MatMul (x, z) }",
            240,
        ),
        (
            "g (float[1,4,5,5] x) => (float[1,2,9,9] y) <float[4,2,3,3] w> "
            "{ y = ConvTranspose <strides = [2,2], pads = [1,1,1,1]> (x, w) }",
            4 * 25 * 2 * 9,
        ),
        (
            "g (float[7,1,4] x) => (float[7,1,1,3] y) <float[1,12,4] w, float[1,12,3] r> "
            "{ y = LSTM <hidden_size = 3> (x, w, r) }",
            7 * 12 * (4 + 3),
        ),
        ("g (float[1,6,8] x) => (float[1,6,6] y) <float[6,1,3] w> "
         "{ y = Conv <group = 6> (x, w) }", 6 * 6 * 3),
    ],
)  # fmt: skip
def test_macs_of_one_node(text: str, macs: int) -> None:
    assert measure(parse(text, 17)).macs == macs


def test_open_dims_take_the_shapes_of_the_feeds_for_one_sample() -> None:
    model = parse("g (float[N,M,8] x) => (float[N,M,4] y) <float[8,4] w> { y = MatMul (x, w) }", 17)
    assert measure(model).macs == 32
    assert measure(model, {"x": np.zeros((5, 3, 8), np.float32)}).macs == 3 * 32


def test_shapes_that_inference_cannot_know_are_observed() -> None:
    model = parse(
        """g (float[2,8] x, int64[2] shape) => (float[A,B] y) <float[4,4] w>
        { r = Reshape (x, shape)   y = MatMul (r, w) }""",
        17,
    )
    feeds = {"x": np.zeros((2, 8), np.float32), "shape": np.array([4, 4])}
    assert measure(model, feeds).macs == 4 * 4 * 4


def test_constant_nodes_count_as_parameters_once() -> None:
    model = parse(
        "g (float[2] x) => (float[2] y) "
        "{ c = Constant <value = float[2] {1, 2}> ()  a = Add (x, c)  y = Add (a, c) }",
        17,
    )
    assert measure(model).params == 2
    assert [cost.params for cost in node_costs(model)] == [0, 2, 2]


def test_counting_reads_no_weight() -> None:
    def refuse() -> ir.TensorProtocol:
        raise AssertionError("a weight was read")

    model = resnet50()
    for value in model.graph.initializers.values():
        data = value.const_value
        assert data is not None
        value.const_value = ir.LazyTensor(refuse, data.dtype, data.shape, name=value.name)  # type: ignore[arg-type]
    measure(model, size=0)
