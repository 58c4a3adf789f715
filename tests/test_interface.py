"""Input shapes, outputs and operator set on request: what changes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxcomp
from case_pages import parse
from onnxcomp.api import make_recipe
from onnxcomp.errors import OnnxcompError, RecipeError, UsageError
from onnxcomp.graph import opset_version
from onnxcomp.interface import fix_shapes, keep_outputs
from onnxcomp.recipe_file import load_recipe
from onnxcomp.runtime import Session, value_spec
from onnxcomp.settings import parse_shapes

TWO_INPUTS = """g (float[N, 4] a, float[N, M] b, float[?, 2] c) => (float[N, K] y, float[M] s)
{ y = Concat <axis = 1> (a, b)  s = ReduceSum <keepdims = 0, axes = [0]> (b) }"""
SHAPE_ARITHMETIC = """g (float[N, C, H] x) => (float[N, P] y)
<int64[1] start = {1}, int64[1] end = {9}, int64[1] zero = {0}, int64[1] one = {-1}>
{ s = Shape (x)  n = Slice (s, zero, start)  t = Concat <axis = 0> (n, one)  y = Reshape (x, t) }"""


def specs(model: ir.Model) -> list[str]:
    return [str(value_spec(value)) for value in (*model.graph.inputs, *model.graph.outputs)]


# ---------------------------------------------------------------- shapes
def test_a_named_dim_gets_its_number_everywhere() -> None:
    model = parse(TWO_INPUTS, 12)
    fixed = fix_shapes(model, {"b": (2, 3)})
    assert specs(fixed) == [
        "a: float32[2,4]", "b: float32[2,3]", "c: float32[?,2]",
        "y: float32[2,7]", "s: float32[3]",
    ]  # fmt: skip
    assert specs(model)[1] == "b: float32[N,M]"


def test_a_kept_dim_stays_and_others_are_set() -> None:
    fixed = fix_shapes(parse(TWO_INPUTS, 12), {"b": ("_", 3), "c": (7, "_")})
    assert specs(fixed) == [
        "a: float32[N,4]", "b: float32[N,3]", "c: float32[7,2]",
        "y: float32[N,7]", "s: float32[3]",
    ]  # fmt: skip


def test_unnamed_dims_are_each_their_own() -> None:
    text = "g (float[?, 2] a, float[?, 2] b) => (float[?, 2] y) { y = Concat <axis = 0> (a, b) }"
    fixed = fix_shapes(parse(text, 17), {"a": (3, 2)})
    assert specs(fixed) == ["a: float32[3,2]", "b: float32[?,2]", "y: float32[?,2]"]
    both = fix_shapes(parse(text, 17), {"a": (3, 2), "b": (4, 2)})
    assert specs(both)[2] == "y: float32[7,2]"


def test_the_only_input_needs_no_name_and_an_undeclared_shape_can_be_given() -> None:
    model = parse("g (float[N] x) => (float[N] y) { y = Relu (x) }", 17)
    assert specs(fix_shapes(model, {"": (5,)})) == ["x: float32[5]", "y: float32[5]"]
    model.graph.inputs[0].shape = model.graph.outputs[0].shape = None
    assert specs(fix_shapes(model, {"x": (5, 2)})) == ["x: float32[5,2]", "y: float32[5,2]"]


def test_shape_arithmetic_folds_and_the_output_is_declared() -> None:
    source = parse(SHAPE_ARITHMETIC, 17)
    result = onnxcomp.optimize(source, shapes={"x": (2, 3, 4)})
    assert specs(result.model) == ["x: float32[2,3,4]", "y: float32[2,12]"]
    assert [node.op_type for node in result.model.graph] == ["Reshape"]
    assert [str(change) for change in result.report.interface] == [
        "input x float32[N,C,H] -> float32[2,3,4]",
        "output y float32[N,P] -> float32[2,12]",
    ]
    assert result.report.passed
    assert result.report.parity is not None
    assert onnxcomp.optimize(source).report.interface == ()


def test_wrong_labels_of_inner_values_and_outputs_do_no_harm() -> None:
    """The exporter called the sum's dim N, which is one more."""
    text = """g (float[N] x, float[1] o) => (float[N] y) <float[N] c>
    { c = Concat <axis = 0> (x, o)  t = Shape (c)  f = Cast <to = 1> (t)  y = Mul (c, f) }"""
    model = parse(text, 17)
    result = onnxcomp.optimize(model, shapes={"x": (4,)})
    assert specs(result.model)[2] == "y: float32[5]"
    feeds = {"x": np.arange(4, dtype=np.float32), "o": np.ones(1, np.float32)}
    assert Session(result.model).run(feeds)["y"].tolist() == [0, 5, 10, 15, 5]


def test_a_dim_that_depends_on_data_stays_open() -> None:
    text = "g (float[N] x) => (int64[1, N] y) { y = NonZero (x) }"
    fixed = fix_shapes(parse(text, 17), {"x": (64,)})
    assert specs(fixed)[0] == "x: float32[64]"
    open_dim = fixed.graph.outputs[0].shape
    assert open_dim is not None
    assert open_dim[1] in (64, ir.SymbolicDim(None))  # all of the normal numbers were not zero


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ({"d": (1, 4)}, "no input 'd'; its inputs are a: float32.N,4., b: float32.N,M., c"),
        ({"": (1, 4)}, "model of one input|models of one input"),
        ({"a": (1, 4, 1)}, "has 3 dims; the input has 2: a: float32"),
        ({"a": (1, 5)}, "asks 5 for dim 1, which the model fixes at 4"),
        ({"a": (1, 4), "b": (2, 3)}, "makes the dim 'N' 2, but a:1,4 makes it 1"),
        ({"a": (0, 4)}, "a number from 1 on"),
        ({"a": ("N", 4)}, "a number from 1 on"),
        ({"a": (True, 4)}, "a number from 1 on"),
        ({"a": 3}, "must be a list of dims"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: dict[str, Any], reason: str) -> None:
    with pytest.raises(OnnxcompError, match=reason):
        onnxcomp.optimize(parse(TWO_INPUTS, 12), shapes=shapes)


def test_a_sequence_has_no_shape_to_fix() -> None:
    text = """g (seq(float[N]) x, int64 i) => (float[N] y) { y = SequenceAt (x, i) }"""
    with pytest.raises(UsageError, match="no tensor but Sequence"):
        fix_shapes(parse(text, 17), {"x": (3,)})


def test_a_shape_at_which_only_the_fixed_model_fails_is_refused() -> None:
    text = "g (float[N] x) => (float[2, M] y) <int64[2] t = {2, -1}> { y = Reshape (x, t) }"
    assert specs(fix_shapes(parse(text, 17), {"x": (6,)}))[1] == "y: float32[2,3]"
    with pytest.raises(UsageError, match="does not run at this shape"):
        fix_shapes(parse(text, 17), {"x": (5,)})
    fix_shapes(parse(text, 17), {"x": (5,)}, run=False)


def test_shapes_on_the_command_line() -> None:
    assert parse_shapes(["x:1,3,_", "a:0:2"]) == {"x": (1, 3, "_"), "a:0": (2,)}
    assert parse_shapes(["1, 3"]) == {"": (1, 3)}
    assert parse_shapes(["x:"]) == {"x": ()}
    with pytest.raises(RecipeError, match="a shape already"):
        parse_shapes(["x:1", "x:2"])
    with pytest.raises(RecipeError, match="--shape x:1,N: a dim is a number"):
        parse_shapes(["x:1,N"])


# ---------------------------------------------------------------- outputs
def test_only_the_outputs_asked_for_stay_in_the_models_order() -> None:
    text = """g (float[N] x) => (float[N] a, float[N] b, float[N] c) <float[1] w>
    { a = Relu (x)  t = Mul (x, w)  b = Abs (t)  c = Neg (a) }"""
    model = parse(text, 17)
    result = onnxcomp.optimize(model, outputs=["c", "a"])
    assert [value.name for value in result.model.graph.outputs] == ["a", "c"]
    assert sorted(node.op_type for node in result.model.graph) == ["Neg", "Relu"]
    assert not result.model.graph.initializers
    assert [change.to_dict() for change in result.report.interface] == [
        {"what": "output b", "before": "float32[N]", "after": None}
    ]
    assert str(result.report.interface[0]) == "output b removed (float32[N])"
    assert result.report.before.cost.nodes == 4
    assert set(result.report.parity.outputs) == {"a", "c"}  # type: ignore[union-attr]
    assert len(model.graph.outputs) == 3


def test_unknown_outputs_and_none_are_refused() -> None:
    model = parse("g (float[N] x) => (float[N] a) { a = Relu (x) }", 17)
    with pytest.raises(UsageError, match="no output 'b'; its outputs are 'a'"):
        onnxcomp.optimize(model, outputs=["b"])
    with pytest.raises(RecipeError, match="must be a list of names"):
        onnxcomp.optimize(model, outputs="a")
    with pytest.raises(RecipeError, match="at least one"):
        make_recipe(outputs=[""])
    assert keep_outputs(model, ["a"]).graph.num_nodes() == 1


def test_an_interface_change_alone_is_written_too(tmp_path: Path) -> None:
    source, out = tmp_path / "m.onnx", tmp_path / "o.onnx"
    ir.save(
        parse("g (float[N] x) => (float[N] a, float[N] b) { a = Relu (x) b = Abs (x) }", 17), source
    )
    result = onnxcomp.optimize(source, outputs=["b"], shapes={"x": (3,)})
    result.save(out)
    assert [value.name for value in onnx.load(out).graph.output] == ["b"]
    unchanged = onnxcomp.optimize(source, outputs=["a", "b"])
    assert unchanged.report.interface == ()
    unchanged.save(out)
    assert out.read_bytes() == source.read_bytes()


# ---------------------------------------------------------------- the recipe
def test_the_recipe_repeats_it(tmp_path: Path) -> None:
    recipe = make_recipe(
        shapes={"in:0": (1, None, 3), 'q"uote': [2]}, outputs=["a", "b", "a"], opset=17
    )
    assert recipe.shapes == {"in:0": (1, "_", 3), 'q"uote': (2,)}
    assert recipe.outputs == ("a", "b")
    path = tmp_path / "r.toml"
    path.write_text(recipe.to_toml(), encoding="utf-8")
    assert load_recipe(str(path)) == recipe
    assert recipe.to_dict()["shapes"] == recipe.shapes
    edited = make_recipe(str(path), shapes={"other": (1,)})
    assert set(edited.shapes) == {"in:0", 'q"uote', "other"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("shapes = 3", "a table of dims"),
        ('shapes = {x = "1,2"}', "must be a list of dims"),
        ("shapes = {x = [1.5]}", "a number from 1 on"),
        ('outputs = "a"', "must be a list of names"),
        ("outputs = []", "at least one"),
        ("outputs = [1]", "at least one"),
        ('opset = "17"', "opset must be int"),
        ("opset = 6", "from 7 to"),
        ("opset = 99", "from 7 to"),
    ],
)
def test_bad_settings_are_explained(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(OnnxcompError, match=reason):
        load_recipe(str(path))


# ---------------------------------------------------------------- the operator set
def test_the_operator_set_is_converted_before_the_passes() -> None:
    text = "g (float[N, 4] x) => (float[N, 1] y) { t = Relu (x)  y = ReduceMean <axes = [1]> (t) }"
    result = onnxcomp.optimize(parse(text, 13), opset=18)
    assert opset_version(result.model) == 18
    assert [str(change) for change in result.report.interface] == ["opset 13 -> 18"]
    assert result.report.passed
    back = onnxcomp.optimize(result.model, opset=13)
    assert opset_version(back.model) == 13
    assert [node.op_type for node in back.model.graph] == ["Relu", "ReduceMean"]
    assert list(back.model.graph[1].attributes["axes"].as_ints()) == [1]
    assert onnxcomp.optimize(result.model, opset=18).report.interface == ()


def test_what_is_computed_from_constants_can_become_an_attribute() -> None:
    text = """g (float[N, 4] x) => (float[N] y) <int64[1] a = {0}, int64[1] b = {1}>
    { axes = Add (a, b)  y = ReduceMean <keepdims = 0> (x, axes) }"""
    result = onnxcomp.optimize(parse(text, 18), opset=13)
    assert [node.op_type for node in result.model.graph] == ["ReduceMean"]
    assert result.report.passed


@pytest.mark.parametrize(
    ("text", "old", "new", "reason"),
    [
        ("g (float[2] x) => (float[2] y) { y = Mish (x) }", 18, 17, "no Mish in opset 17"),
        (
            "g (float[2] x, int64[1] a) => (float[M] y) { y = ReduceMean (x, a) }",
            18, 13, "axes that are computed",
        ),
        (
            "g (bfloat16[2] x) => (bfloat16[2] y) { y = Abs (x) }",
            17, 11, "cannot convert opset 17 to 11",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_is_refused(text: str, old: int, new: int, reason: str) -> None:
    with pytest.raises(OnnxcompError, match=reason):
        onnxcomp.optimize(parse(text, old), opset=new, verify=False)


def test_local_functions_are_refused() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "here" : 1]>
    g (float[2] x) => (float[2] y) { y = here.twice (x) }
    <domain: "here", opset_import: ["" : 17]> twice (a) => (b) { b = Add (a, a) }"""
    with pytest.raises(OnnxcompError, match=r"local functions .twice.; inline them"):
        onnxcomp.optimize(parse(text, 17), opset=18)


def test_a_conversion_that_answers_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: ir.Model, version: int) -> None:
        model.graph[0].op_type = "Abs"
        model.opset_imports[""] = version

    monkeypatch.setattr("onnxcomp.opset_convert.raise_nodes", wrong)
    model = parse("g (float[64] x) => (float[64] y) { y = Relu (x) }", 13)
    with pytest.raises(OnnxcompError, match=r"cannot convert opset 13 to 17: .*y"):
        onnxcomp.optimize(model, opset=17)


def test_a_conversion_keeps_names_metadata_and_what_is_not_declared() -> None:
    text = """g (float[N, 4] x) => (float[N] y)
    { t = Relu (x)  y = ReduceMax <axes = [1], keepdims = 0> (t) }"""
    model = parse(text, 13)
    model.metadata_props["who"] = "me"
    result = onnxcomp.optimize(model, opset=18, recipe="none")
    assert dict(result.model.metadata_props) == {"who": "me"}
    assert result.model.graph[0].outputs[0].name == "t"
    assert result.model.graph[0].outputs[0].shape is None
