"""Dims as polynomials, and that the shapes inferred are those ONNX Runtime makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from case_pages import parse
from onnxcomp.calibration.synthetic import runnable_feeds
from onnxcomp.runtime import Session
from onnxcomp.symbolic.dims import (
    Dim,
    at_most,
    divide,
    equal,
    is_nonnegative,
    is_positive,
    less,
    named,
)
from onnxcomp.symbolic.operands import broadcast
from onnxcomp.symbolic.propagate import propagate

MODELS = sorted((Path(__file__).parent.parent / "models").glob("*.onnx"))
SIZES = {"N": 3, "S": 7, "Z": 0}


def value_of(dim: int | Dim, sizes: dict[str, int]) -> int | None:
    """Return the number that a polynomial is for these sizes; None if it has other names."""
    if not isinstance(dim, Dim):
        return dim
    text = dim.text
    for name in sorted(sizes, key=len, reverse=True):
        text = text.replace(name, str(sizes[name]))
    if "?" in text or "@" in text:
        return None
    return int(eval(text.replace(")/", ")//"), {"min": min}))


def combine(parts: tuple[str, int | Dim, int | Dim]) -> int | Dim:
    sign, first, second = parts
    return {"+": first + second, "-": first - second, "*": first * second}[sign]


polynomials = st.recursive(
    st.integers(-5, 5) | st.sampled_from([named(name) for name in SIZES]),
    lambda inner: st.tuples(st.sampled_from("+-*"), inner, inner).map(combine),
    max_leaves=6,
)


def number(dim: int | Dim) -> int:
    found = value_of(dim, SIZES)
    assert found is not None
    return found


@given(polynomials, polynomials)
def test_arithmetic_agrees_with_numbers(first: int | Dim, second: int | Dim) -> None:
    assert number(first + second) == number(first) + number(second)
    assert number(first - second) == number(first) - number(second)
    assert number(first * second) == number(first) * number(second)
    assert first - first == 0
    assert first + second == second + first
    assert first * second == second * first


@given(polynomials, polynomials)
def test_what_is_sure_is_so(first: int | Dim, second: int | Dim) -> None:
    assert equal(first, second) in (None, number(first) == number(second))
    assert less(first, second) in (None, number(first) < number(second))
    assert not is_nonnegative(first) or number(first) >= 0
    assert not is_positive(first) or number(first) > 0


@given(polynomials, polynomials)
def test_division_agrees_with_numbers(first: int | Dim, by: int | Dim) -> None:
    found = divide(first, by)
    if found is not None and number(by):
        assert number(found) == int(number(first) / number(by))


@given(polynomials, st.integers(1, 5))
def test_division_that_rounds_down(first: int | Dim, by: int) -> None:
    found = divide(first, by, floor=True)
    assert found is not None
    assert number(found) == number(first) // by


def test_division_knows_what_it_divides() -> None:
    n = named("N")
    assert divide(6 * n, 3) == 2 * n
    assert divide(n * 4 * n, 2 * n) == 2 * n
    assert divide(2 * n + 3, 2) == n + 1
    assert divide(n, 0) is None
    assert divide(n - 1, 2) is None  # rounds up where n is 0
    assert divide(n, named("S")) is None
    assert str(divide(n, 2)) == "(N)/2"


def test_signs() -> None:
    n, unknown = named("N"), named("@1")
    assert is_nonnegative(n)
    assert is_positive(n + 1)
    assert not is_positive(n)
    assert not is_nonnegative(unknown)
    assert equal(n, -1) is False
    assert equal(unknown, -1) is None
    assert less(n, 0) is False
    assert at_most(3, 5) == 3
    assert str(at_most(n, 5)) == "min(N,5)"


def test_a_polynomial_reads_as_one() -> None:
    n, s = named("N"), named("S")
    assert str(2 * n + 1) == "1 + 2*N"
    assert str(n * s - n) == "-1*N + N*S"
    with pytest.raises(TypeError, match="not a number"):
        int(n)


def check_shapes(model: ir.Model) -> int:
    """Compare the shapes and contents found with those of a run; return how many were."""
    facts = propagate(model)
    feeds = runnable_feeds(model, count=1, seed=3)[0]
    sizes = {
        str(dim): feeds[value.name or ""].shape[axis]
        for value in model.graph.inputs
        for axis, dim in enumerate(value.shape or ())
        if isinstance(dim, ir.SymbolicDim) and dim.value
    }
    made = [out for node in model.graph for out in node.outputs if out.name]
    run = Session(model, taps=[out.name or "" for out in made if not out.is_graph_output()]).run(
        feeds
    )
    known = 0
    for value in made:
        shape, content = facts.shape(value), facts.contents.get(value)
        if shape is None or value.name not in run:
            continue
        dims = [value_of(dim, sizes) for dim in shape]
        pairs = list(zip(dims, np.shape(run[value.name]), strict=True))
        assert all(dim in (None, size) for dim, size in pairs), (value.name, shape, pairs)
        known += sum(dim is not None for dim in dims)
        for item, result in zip(
            [] if content is None else content.flat, run[value.name].reshape(-1), strict=False
        ):
            assert value_of(item, sizes) in (None, result), (value.name, content)
            known += 1
    return known


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_shapes_are_those_of_a_run(path: Path) -> None:
    assert check_shapes(ir.load(path)) > 0


@pytest.mark.parametrize(
    "body",
    [
        "a = Add (x, x) b = Transpose <perm = [1, 0, 2]> (a) c = Concat <axis = 1> (b, b)",
        "a = Flatten <axis = 2> (x) b = Flatten <axis = 0> (x) c = Identity (a)",
        "a = ReduceSum <keepdims = 0> (x, one) b = ReduceMax <axes = [-1]> (x) "
        "c = ArgMax <axis = 1, keepdims = 0> (x)",
        "a = Unsqueeze (x, ends) b = Squeeze (a, ends) c = Slice (x, one, two, one)",
        "a = Slice (x, zero, big, one) b = Slice (a, zero, two, two) c = Slice (x, one, big, two)",
        "s = Shape (x) a = Expand (k, s) b = Tile (x, t) c = ConstantOfShape (s)",
        "a, b = Split <axis = 2> (x) c = Gather <axis = 1> (x, one)",
        "s = Shape <start = -2> (x) d = Shape <start = 0, end = 1> (x) "
        "a = Concat <axis = 0> (d, s) b = Reshape (x, a) c = ReduceProd <keepdims = 0> (s)",
        "z = Size (x) a = Unsqueeze (z, zero) b = Reshape (x, a) c = Div (a, two)",
        "s = Shape (x) a = Mul (s, s) b = Sub (a, s) c = Max (b, s)",
        "s = Shape (x) e = Equal (s, minus) a = Where (e, t, s) b = Reshape (x, a) c = Min (s, a)",
        "s = Shape (x) a = Slice (s, zero, two) m = Neg (a) n = Abs (m) "
        "b = Cast <to = 6> (n) c = Cast <to = 7> (b)",
        "p = Unsqueeze (x, one) "
        "a = MaxPool <kernel_shape = [3, 2], pads = [1, 0, 1, 0], strides = [2, 1]> (p) "
        "b = GlobalAveragePool (a) "
        "c = AveragePool <kernel_shape = [1, 2], strides = [1, 2]> (p)",
        "p = Unsqueeze (x, zero) w = Transpose <perm = [0, 3, 1, 2]> (p) "
        "a = ConvTranspose <strides = [2, 1], pads = [1, 0, 0, 1], output_padding = [1, 0]> "
        "(w, kernel) b = Resize (a, none, scales) "
        "c = GatherElements <axis = 0> (zero, zero)",
        "p = Unsqueeze (x, one) a = Resize (p, none, scales) b = DepthToSpace <blocksize = 1> (a) "
        "c = SpaceToDepth <blocksize = 1> (a)",
        "s = Shape (x) u = Concat <axis = 0> (s, s) rows = Reshape (u, pairs) "
        "m = Slice (rows, minus1, low, zero, minus1) a = Transpose (m) b = Reshape (a, flat) "
        "c = Slice (rows, one, big, one)",
        "a = MatMul (x, k) b = MatMul (x, v) c = Softmax (a)",
        "p = Pad (x, pads) a = Reshape (p, r) b = Reshape (x, q) c = Range (zero0, one0, one0)",
        "s = Shape (x) a = Gather (s, one) b = Less (a, zero) d = Not (b) c = And (b, d)",
    ],
)
def test_rules_agree_with_a_run(body: str) -> None:
    model = parse(
        "g (float[N,S,4] x) => (float a, float b, float c) <float[4,4] k, float[4] v, "
        "float[4,2,3,2] kernel, float[4] scales = {1, 1, 2, 1.5}, float[0] none, "
        "int64[2] pairs = {-1, 2}, "
        "int64[1] minus1 = {-1}, int64[1] low = {-9223372036854775807}, int64[1] flat = {-1}, "
        "int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[2] ends = {0, -1}, "
        "int64[1] big = {9223372036854775807}, int64[3] t = {2, 1, 3}, int64[3] minus = "
        "{-1, -1, -1}, int64[6] pads = {1, 0, 0, 0, 2, 0}, int64[2] r = {-1, 4}, int64[3] q = "
        "{0, -1, 2}, int64 zero0 = {0}, int64 one0 = {1}>"
        f"{{ {body} }}",
        17,
    )
    for output in list(model.graph.outputs):
        output.shape, output.type = None, None
    assert check_shapes(model) > 0


def test_broadcasting() -> None:
    n, s = named("N"), named("S")
    assert broadcast([n, 1], [s]) == [n, s]
    assert broadcast([n], [s]) == [None]
    assert broadcast([n], [4]) == [4]
    assert broadcast([None], [1]) == [None]
    assert broadcast([n], [n], [1]) == [n]
    assert broadcast([n], [at_most(n, 512)]) == [n]
    assert broadcast([1], [0]) == [0]
    assert broadcast(None, [1]) is None
