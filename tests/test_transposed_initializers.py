"""Weights that are each other's transposes, of sizes and numbers that no page can write."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from case_pages import parse
from onnxcomp.graph import Array
from onnxcomp.registry import apply, find_pass

PASS = find_pass("deduplicate-transposed-initializers")


def sites(body: str, outputs: str = "y, z", inputs: str = "x, u", **weights: Array) -> int:
    """Run the pass on nodes over these weights; return the sites."""
    declared = ", ".join(f"float{list(data.shape)} {name}" for name, data in weights.items())
    head = ", ".join(f"float[A,B] {name}" for name in inputs.split(", "))
    tail = ", ".join(f"float[C,D] {name}" for name in outputs.split(", "))
    model = parse(f"g ({head}) => ({tail}) <{declared}> {{ {body} }}", 17)
    for name, data in weights.items():
        if name in model.graph.initializers:
            model.graph.initializers[name].const_value = ir.tensor(data.copy(), name=name)
    found = apply(PASS, model).sites
    assert apply(PASS, model).sites == 0
    return found


def matrix(rows: int, columns: int) -> Array:
    return np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)


TWO = "y = MatMul (x, w)   z = Gemm (u, v)"


@pytest.mark.parametrize(("rows", "columns", "found"), [(16, 16, 1), (15, 17, 0), (8, 33, 1)])
def test_the_least_size(rows: int, columns: int, found: int) -> None:
    w = matrix(rows, columns)
    assert sites(TWO, w=w, v=w.T) == found


@pytest.mark.parametrize("place", [(0, 0), (1, 1), (17, 3), (31, 15)])
def test_one_number_that_differs(place: tuple[int, int]) -> None:
    w = matrix(16, 32)
    v = w.T.copy()
    v[place] = -1
    assert sites(TWO, w=w, v=v) == 0


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("y = MatMul (x, w)   z = Gemm (u, v)   s = Relu (v)", "y, z, s"),
        ("y = MatMul (x, w)   z = Gemm (u, v)", "y, z, v"),
        ("y = MatMul (x, w)   z = Relu (u)", "y, z"),
    ],
)
def test_what_must_stay(body: str, outputs: str) -> None:
    w = matrix(16, 32)
    assert sites(body, outputs, w=w, v=w.T) == 0


def test_an_input_with_a_default_stays() -> None:
    w = matrix(16, 32)
    assert sites(TWO, inputs="x, u, v", w=w, v=w.T) == 0


def test_weights_that_are_no_matrices() -> None:
    w = matrix(16, 32)
    body = f"{TWO}   b = Add (y, c)   d = Add (z, e)"
    line, block = np.ones(512, np.float32), np.ones((4, 8, 16), np.float32)
    assert sites(body, "b, d", c=line, e=block, w=w, v=w.T) == 1


def test_several_copies() -> None:
    w = matrix(16, 32)
    body = "y = MatMul (x, w)   z = Gemm (u, v)   s = Gemm (u, t)"
    assert sites(body, "y, z, s", w=w, v=w.T, t=w.T) == 2
    body = "y = Gemm (u, v)   z = MatMul (x, w)   s = Gemm (u, t)"
    assert sites(body, "y, z, s", v=w.T, w=w, t=w.T) == 2
    other = w + 1
    body = "y = MatMul (x, w)   z = MatMul (x, q)   s = Gemm (u, v)"
    assert sites(body, "y, z, s", w=other, q=w, v=w.T) == 1
