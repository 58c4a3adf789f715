"""What the pages cannot say about folding: budgets, laziness, types, and runs on odd graphs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from case_pages import parse
from onnxcomp.edits import add_tensor, sweep
from onnxcomp.graph import Array, array
from onnxcomp.registry import Outcome, apply, find_pass
from onnxcomp.runtime import Session, weight_bytes


def fold(model: ir.Model, **options: object) -> Outcome:
    outcome = apply(find_pass("fold-constants"), model, options)
    sweep(model)
    return outcome


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


class Unreadable(ir.LazyTensor):
    """A weight whose data must not be asked for."""

    def __init__(self, *shape: int) -> None:
        super().__init__(self._refuse, ir.DataType.FLOAT, ir.Shape(shape), name="w")

    @staticmethod
    def _refuse() -> ir.TensorProtocol:
        raise AssertionError("the data was read")


def with_weight(text: str, weight: ir.TensorProtocol) -> ir.Model:
    model = parse(text, 17)
    value = next(v for v in model.graph.initializers.values() if v.name == "w")
    value.const_value, value.shape = weight, ir.Shape(weight.shape)  # type: ignore[arg-type]
    return model


def test_a_filled_tensor_of_half_a_gigabyte_is_not_even_computed() -> None:
    model = parse(
        "g (float[1] x) => (float[N] y) <int64 n = {134217728}>"
        "{ z = Constant <value_ints = [-1]> () s = Reshape (n, z)"
        "  k = ConstantOfShape (s) a = Exp (k) y = Add (x, a) }",
        17,
    )
    outcome = fold(model)
    assert operators(model) == ["ConstantOfShape", "Exp", "Add"]
    assert outcome.left[0].reason == "its result would take 536,870,912 B"
    assert weight_bytes(model) < 100


@pytest.mark.parametrize(
    "make", ["Expand (w, s)", "Tile (w, s)", "Range (lo, hi, one)", "ConstantOfShape (s)"]
)
def test_growing_operators_stay(make: str) -> None:
    model = parse(
        "g (float[1] x) => (float[N] y) <float[1] w, int64[1] s = {50000},"
        " float lo = {0}, float hi = {50000}, float one = {1}>"
        f"{{ k = {make} y = Add (x, k) }}",
        17,
    )
    assert fold(model).sites == 0


def test_a_large_intermediate_is_no_growth() -> None:
    model = parse(
        "g (float[1] x) => (float[1] y) <float[1] w = {2}, int64[1] s = {50000}>"
        "{ k = Expand (w, s) m = ReduceMean <keepdims = 1> (k) y = Add (x, m) }",
        17,
    )
    assert fold(model).sites == 2
    assert operators(model) == ["Add"]


def test_a_weight_that_is_replaced_pays_for_its_result() -> None:
    model = parse(
        "g (float[N,512] x) => (float[N,256] y) <float[256,512] w>"
        "{ t = Transpose (w) y = MatMul (x, t) }",
        17,
    )
    before = weight_bytes(model)
    assert fold(model).sites == 1
    assert weight_bytes(model) == before


def test_a_weight_that_stays_in_use_does_not_pay() -> None:
    model = parse(
        "g (float[256,512] x) => (float[256,256] y) <float[256,512] w>"
        "{ t = Transpose (w) z = Add (x, w) y = MatMul (z, t) }",
        17,
    )
    assert fold(model).left[0].reason == "the model would grow by 524,288 B"


def test_what_one_run_refuses_the_next_refuses_too() -> None:
    sizes = (20, 30, 40, 4000)
    fills = "".join(f"k{i} = ConstantOfShape (s{i}) y{i} = Add (x, k{i}) " for i in range(4))
    shapes = ", ".join(f"int64[1] s{i} = {{{size}}}" for i, size in enumerate(sizes))
    outputs = ", ".join(f"float[A{i}] y{i}" for i in range(4))
    model = parse(f"g (float[1] x) => ({outputs}) <{shapes}> {{ {fills} }}", 17)
    before = weight_bytes(model)
    assert fold(model, max_growth=128).sites == 2  # 80 - 8 and 120 - 8 bytes, not 160 - 8
    assert weight_bytes(model) - before == 80 + 120 - 2 * 8
    for again in (model, model.clone(), ir.from_proto(ir.to_proto(model))):
        assert fold(again, max_growth=128).sites == 0


def test_large_weights_are_not_read_for_their_shape_or_when_left() -> None:
    model = with_weight(
        "g (float[1000,1000] x) => (float[1000,1000] y, int64[2] z) <float[1000,1000] w>"
        "{ t = Transpose (w) a = Add (x, t) y = Add (a, w)"
        "  s = Shape (w) n = Neg (s) c = Cast <to = 7> (a) m = ReduceMax <keepdims = 0> (c)"
        "  z = Add (n, m) }",
        Unreadable(1000, 1000),
    )
    shapes = apply(find_pass("fold-shape-arithmetic"), model)
    assert shapes.sites == 2  # Shape and Neg
    assert fold(model).sites == 0
    assert "Transpose" in operators(model)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.uint16])
def test_types_are_kept(dtype: type) -> None:
    name = {"float64": "double"}.get(np.dtype(dtype).name, np.dtype(dtype).name)
    model = parse(
        f"g ({name}[600] x) => ({name}[2,600] y) <{name}[600] w = {{{'1, ' * 599}1}}>"
        "{ k = Concat <axis = 0> (w) z = Constant <value_ints = [0]> () u = Unsqueeze (k, z)"
        f"  v = Unsqueeze (x, z) y = Concat <axis = 0> (u, v) }}",
        17,
    )
    feeds: dict[str, Array] = {"x": np.zeros(600, dtype)}
    expected = Session(model).run(feeds)["y"]
    assert fold(model).sites == 2
    weights = [array(value) for value in model.graph.initializers.values()]
    assert [w.dtype for w in weights if w is not None and w.size == 600] == [np.dtype(dtype)]
    assert np.array_equal(Session(model).run(feeds)["y"], expected)


def test_bfloat16_is_left() -> None:
    model = parse(
        "g (bfloat16[2] x) => (bfloat16[2] y) <bfloat16[2] w = {1, 2}>"
        "{ a = Identity (w) y = Add (x, a) }",
        17,
    )
    outcome = fold(model)
    assert outcome.sites == 0
    assert outcome.left[0].reason == "ONNX Runtime does not return values of type BFLOAT16"


def test_one_session_runs_all_constant_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Counted(Session):
        def __init__(self, model: ir.Model) -> None:
            made.append(len(model.graph))
            super().__init__(model)

    monkeypatch.setattr("onnxcomp.passes.fold._batch.Session", Counted)
    chains = "".join(f"a{i} = Exp (w) b{i} = Mul (a{i}, v{i}) " for i in range(20))
    sums = "".join(f"y{i} = Add (x, b{i}) " for i in range(20))
    weights = ", ".join(f"float[4] v{i}" for i in range(20))
    outputs = ", ".join(f"float[4] y{i}" for i in range(20))
    text = f"g (float[4] x) => ({outputs}) <float[4] w, {weights}> {{ {chains} {sums} }}"
    assert fold(parse(text, 17)).sites == 40
    assert made == [40]


def test_a_long_chain_folds_in_linear_time() -> None:
    chain = "a0 = Exp (w) " + "".join(f"a{i} = Relu (a{i - 1}) " for i in range(1, 2000))
    text = f"g (float[4] x) => (float[4] y) <float[4] w> {{ {chain} y = Add (x, a1999) }}"
    assert fold(parse(text, 17)).sites == 2000


def test_a_node_that_fails_is_named_and_the_rest_folds() -> None:
    model = parse(
        "g (int64[2] x) => (int64[2] y) <int64[2] w = {1, 2}, int64 i = {5}>"
        "{ k = Gather (w, i) n = Neg (w) m = Abs (n) a = Add (x, m) y = Add (a, k) }",
        17,
    )
    outcome = fold(model)
    assert outcome.sites == 2
    assert operators(model) == ["Gather", "Add", "Add"]
    assert [(left.node, "indices" in left.reason) for left in outcome.left] == [
        ("Gather -> k", True)
    ]


def test_names_of_sibling_branches_do_not_mix() -> None:
    model = parse(
        "g (float[2] x, bool c) => (float[2] y)"
        "{ y = If (c) <"
        "  then_branch = t () => (float[2] a) <float[2] w = {1, 2}>"
        "    { k = Neg (w) a = Add (x, k) },"
        "  else_branch = e () => (float[2] b) <float[2] w = {3, 4}>"
        "    { k = Neg (w) b = Add (x, k) }> }",
        17,
    )
    assert fold(model).sites == 2
    x = np.zeros(2, np.float32)
    for condition, expected in ((True, [-1, -2]), (False, [-3, -4])):
        feeds: dict[str, Array] = {"x": x, "c": np.array(condition)}
        assert Session(model).run(feeds)["y"].tolist() == expected
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_lift_constants_keeps_types_and_strings() -> None:
    model = parse(
        "g (float[2] x) => (float[2] y, string[2] s)"
        "{ two = Constant <value_float = 2.0> () y = Mul (x, two)"
        '  a = Constant <value_strings = ["é", "b"]> () b = Constant <value_string = "ü"> ()'
        "  q = Constant <value = bool[2] {1, 0}> () s = Where (q, a, b) }",
        17,
    )
    feeds = {"x": np.ones(2, np.float32)}
    expected = Session(model).run(feeds)
    assert apply(find_pass("lift-constants"), model).sites == 4
    dtypes = {v.name: v.type.dtype for v in model.graph.initializers.values() if v.type}
    assert dtypes["two"] == ir.DataType.FLOAT
    actual = Session(model).run(feeds)
    assert actual["s"].tolist() == expected["s"].tolist() == ["é", "ü"]
    assert actual["y"].tolist() == expected["y"].tolist()


def test_a_constant_added_to_a_graph_may_be_read_by_the_pass() -> None:
    model = parse("g (float[2] x) => (float[2] y) <float[2] w> { a = Exp (w) y = Add (x, a) }", 17)
    value = model.graph.initializers["w"]
    weight = ir.LazyTensor(
        lambda: ir.tensor(np.zeros(2, np.float32)), ir.DataType.FLOAT, ir.Shape([2]), name="w2"
    )
    lazy = ir.Value(name="w2", shape=ir.Shape([2]), type=value.type, const_value=weight)
    value.replace_all_uses_with(add_tensor(model.graph, lazy))
    assert fold(model).sites == 1
    assert [w.tolist() for w in map(array, model.graph.initializers.values()) if w is not None] == [
        [1.0, 1.0]
    ]
