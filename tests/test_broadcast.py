"""What is sure of dims and of broadcasting, in the cases that no page can write."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from onnxcomp.passes._broadcast import Dim, broadcasts_into, dims_of, outlasts, same_dims


def value(*dims: int | str | None) -> ir.Value:
    return ir.Value(name="v", shape=ir.Shape(dims), type=ir.TensorType(ir.DataType.FLOAT))


def test_open_dims_that_exporters_write_are_not_known() -> None:
    assert dims_of(value(-1, 0, "?", "", None, "N")) == (None, 0, None, None, None, "N")


def test_names_of_results_are_not_known_but_numbers_and_names_of_inputs_are() -> None:
    x = value("N", 3)
    relu = ir.Node("", "Relu", [x])
    relu.outputs[0].shape = ir.Shape(["N", 3])
    assert dims_of(relu.outputs[0]) == ("N", 3)
    ir.Graph([x], [x, relu.outputs[0]], nodes=[relu])
    assert dims_of(relu.outputs[0]) == (None, 3)
    assert dims_of(x) == ("N", 3)
    assert not same_dims(x, relu.outputs[0])


def test_no_shape() -> None:
    assert dims_of(None) is None
    assert dims_of(ir.Value(name="v")) is None
    assert not same_dims(ir.Value(name="v"), ir.Value(name="w"))
    assert not broadcasts_into(ir.Value(name="v"), value(2))
    assert not broadcasts_into(value(1), ir.Value(name="v"))
    assert broadcasts_into(value(), ir.Value(name="v"))


@pytest.mark.parametrize(
    ("dim", "other", "stays"),
    [
        (None, 1, True),
        (None, None, False),
        (None, 2, False),
        ("N", "N", True),
        ("N", "M", False),
        ("N", 2, False),
        (1, 2, False),
        (1, None, False),
        (1, 1, True),
        (0, None, True),
        (2, "N", True),
    ],
)
def test_dims_that_outlast_another(dim: Dim, other: Dim, *, stays: bool) -> None:
    assert outlasts(dim, other) is stays
    assert broadcasts_into(value(other), value(4, dim)) is stays
