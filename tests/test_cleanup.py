"""What the pages cannot say about the clean-up passes: bits, laziness and function bodies."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from case_pages import parse
from onnxcomp.edits import sweep
from onnxcomp.graph import Array, all_graphs
from onnxcomp.parity import compare_outputs
from onnxcomp.registry import Effect, apply, find_pass
from onnxcomp.runtime import Session
from test_fold_constants import Unreadable, with_weight


def run_pass(name: str, model: ir.Model) -> int:
    sites = apply(find_pass(name), model).sites
    sweep(model)
    return sites


def test_weights_of_a_unique_shape_are_not_read() -> None:
    model = with_weight(
        "g (float[3] x) => (float[3] y) <float[3] w, float[1] v = {1}, float[1] u = {1}>"
        "{ a = Add (x, w) b = Add (a, v) y = Add (b, u) }",
        Unreadable(3),
    )
    assert run_pass("deduplicate-initializers", model) == 1


@pytest.mark.parametrize("payload", [0x7FC00001, 0x80000000])
def test_weights_of_other_bits_stay_apart(payload: int) -> None:
    model = parse(
        "g (float[1] x) => (float[1] y) <float[1] w = {0}, float[1] v = {0}>"
        "{ a = Add (x, w) y = Add (a, v) }",
        17,
    )
    plain = 0x7FC00000 if payload == 0x7FC00001 else 0
    for name, bits in (("w", plain), ("v", payload)):
        data = np.array([bits], np.uint32).view(np.float32)
        model.graph.initializers[name].const_value = ir.tensor(data, name=name)
    assert run_pass("deduplicate-initializers", model) == 0


def test_a_weight_that_is_replaced_is_looked_at_again() -> None:
    model = parse(
        "g (float[1] x) => (float[1] y) <float[1] w = {1}, float[1] v = {2}>"
        "{ a = Add (x, w) y = Add (a, v) }",
        17,
    )
    assert run_pass("deduplicate-initializers", model) == 0
    model.graph.initializers["v"].const_value = ir.tensor(np.ones(1, np.float32), name="v")
    assert run_pass("deduplicate-initializers", model) == 1


def test_equal_strings_become_one() -> None:
    model = parse(
        "g (string[2] x) => (bool[2] y, bool[2] z)"
        '<string[2] w = {"a", "b"}, string[2] v = {"a", "b"}, string[2] u = {"a", "c"}>'
        "{ y = Equal (x, w) p = Equal (x, v) q = Equal (x, u) z = And (p, q) }",
        19,
    )
    assert run_pass("deduplicate-initializers", model) == 1


def test_passes_run_in_function_bodies_without_adding_weights_there() -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>'
        "g (float[8] x) => (float[8] y) { y = local.f (x) }"
        '<opset_import: ["" : 17], domain: "local">'
        "f (a) => (b) { lo = Constant <value_float = -1.0> () hi = Constant <value_float = 6.0> ()"
        "  p = Relu (a) q = Clip (p, lo, hi) i = Identity (q) r = Exp (i) s = Exp (i)"
        "  b = Add (r, s) }",
        17,
    )
    before = model.clone()
    for name in (
        "fuse-relu-into-clip",
        "eliminate-identity",
        "eliminate-common-subexpressions",
        "deduplicate-initializers",
    ):
        run_pass(name, model)
    (function,) = model.functions.values()
    assert [node.op_type for node in function.graph if node.op_type != "Constant"] == [
        "Clip",
        "Exp",
        "Add",
    ]
    assert not any(graph.initializers for graph in all_graphs(model))
    feeds = {"x": np.linspace(-2, 8, 8, dtype=np.float32)}
    parity = compare_outputs(Session(before).run(feeds), Session(model).run(feeds))
    assert not parity.failures(Effect.EXACT)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("fuse-consecutive-clips", "p = Clip (x, a, b) y = Clip (p, c, d)"),
        ("fuse-consecutive-clips", "p = Clip (x, c) y = Clip (p, , a)"),
        ("fuse-consecutive-clips", "p = Clip (x, i, j) y = Clip (p)"),
        ("fuse-relu-into-clip", "p = Relu (x) y = Clip (p, a, d)"),
        ("fuse-relu-into-clip", "p = Clip (x, a) y = Relu (p)"),
        ("fuse-relu-into-clip", "p = Clip (x, c, b) y = Relu (p)"),
        ("eliminate-redundant-relu", "p = Relu (x) q = Relu (p) y = Identity (q)"),
        ("eliminate-redundant-relu", "p = Sqrt (x) q = Relu (p) y = Identity (q)"),
    ],
)
def test_special_numbers_pass_alike(name: str, nodes: str, dtype: type) -> None:
    kind = {"float64": "double", "float32": "float"}.get(np.dtype(dtype).name, "float16")
    model = parse(
        f"g ({kind}[N] x) => ({kind}[N] y)"
        f"<{', '.join(f'{kind} {bound} = {{0}}' for bound in 'abcdij')}> {{ {nodes} }}",
        17,
    )
    for bound, number in zip("abcdij", (-1, 1, 0, 2, -np.inf, np.inf), strict=True):
        data: Array = np.array(number, dtype)
        model.graph.initializers[bound].const_value = ir.tensor(data, name=bound)
    before = model.clone()
    assert run_pass(name, model) == 1
    x: Array = np.array([np.nan, -0.0, 0.0, np.inf, -np.inf, -0.5, 0.5, 1.5, 3, -3] * 5, dtype)
    wanted, actual = Session(before).run({"x": x})["y"], Session(model).run({"x": x})["y"]
    assert actual.tobytes() == wanted.tobytes()


def test_open_dims_written_as_minus_one_are_not_equal() -> None:
    model = parse(
        "g (float[A,B] x, int64[2] s) => (float[C,D] y) { a = Reshape (x, s) y = Relu (a) }", 17
    )
    for value in (model.graph.inputs[0], model.graph[0].outputs[0]):
        value.shape = ir.Shape([-1, -1])
    assert run_pass("eliminate-noop-reshape", model) == 0
